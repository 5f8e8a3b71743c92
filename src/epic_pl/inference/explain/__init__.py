"""Attention of a trained model's prompts, drawn sample by sample: ``epic-pl explain``."""
