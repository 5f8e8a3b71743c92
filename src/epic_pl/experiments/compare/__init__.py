"""``epic-pl compare``: methods and seeds on the same data, each run in a process of its own.

``plan`` lists the runs, ``worker`` does one of them, ``runner`` all; ``results`` reads what they
left, and ``report`` writes the tables.
"""
