"""``epic-pl compare``: a comparison of methods with several seeds on the same data.

``plan`` lists the runs, ``results`` reads their results, and ``summary`` writes them.
"""
