"""Errors, files, checks, types and downloads for the whole package."""
