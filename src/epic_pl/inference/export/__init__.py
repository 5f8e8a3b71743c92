"""Export of a trained model as a folder that runs without this package: ``epic-pl export``."""
