"""Inspection of a dataset before training: ``epic-pl data check`` and ``epic-pl data init``."""
