"""Samplers and the resumable loader."""
