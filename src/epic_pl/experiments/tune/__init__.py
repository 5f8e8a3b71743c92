"""``epic-pl tune``: options of ``fit`` searched by Optuna on the validation metric.

``space`` is what is searched, ``trial_run`` runs ``fit`` once, ``study`` asks for trials until
enough are done, and ``report`` writes what they found. The test split is never read.
"""
