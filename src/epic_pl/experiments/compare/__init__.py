"""``epic-pl compare``: every method and seed on the same data, each run a process of its own.

``plan`` lists the runs, ``worker`` runs one of them, ``runner`` all; ``results`` reads what they
left, and ``report`` writes the tables and the plot.
"""
