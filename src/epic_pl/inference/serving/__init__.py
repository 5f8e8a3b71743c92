"""Trained models over HTTP."""
