"""``epic-pl tune``: options of ``fit`` searched by Optuna on the validation metric.

:mod:`~epic_pl.tuning.space` says what is searched, :mod:`~epic_pl.tuning.trial_run` runs ``fit``
once, :mod:`~epic_pl.tuning.study` asks for trials until enough are done, and
:mod:`~epic_pl.tuning.report` writes what they found. The test split is never read.
"""
