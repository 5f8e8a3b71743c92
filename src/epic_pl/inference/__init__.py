"""Inference with trained models: files, inputs, exported programs, and sharing."""
