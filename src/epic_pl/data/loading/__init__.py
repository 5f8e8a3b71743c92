"""Samplers, batch orders and the resumable loader."""
