"""``epic-pl compare``: methods and seeds on the same data.

``plan`` lists the runs, ``results`` reads what they left, and ``report`` writes the tables.
"""
