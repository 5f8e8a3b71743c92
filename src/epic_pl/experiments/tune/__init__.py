"""``epic-pl tune``: search of ``fit`` options by Optuna on the validation metric.

``search`` reads the search space, ``study`` runs the trials, and ``summary`` writes the files.
The test split is never read.
"""
