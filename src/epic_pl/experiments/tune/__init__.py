"""``epic-pl tune``: search of ``fit`` options by Optuna on the validation metric.

``search`` reads what is searched, ``study`` does trials until there are enough, and ``report``
writes the results. The test split is never read.
"""
