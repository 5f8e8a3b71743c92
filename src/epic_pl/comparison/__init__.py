"""``epic-pl compare``: every method and seed on the same data, each run a process of its own.

:mod:`~epic_pl.comparison.plan` says what is run, :mod:`~epic_pl.comparison.worker` runs one of it,
:mod:`~epic_pl.comparison.runner` all; :mod:`~epic_pl.comparison.results` makes rows of what they
left, and :mod:`~epic_pl.comparison.report` the tables and the plot.
"""
