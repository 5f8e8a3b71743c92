"""Samplers, batch orders, the resumable loader and prefetching."""
