"""Errors, files, checks, types and downloads that all rooms share."""
