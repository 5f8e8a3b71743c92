"""Inference with trained models: files, inputs, exported models, and sharing."""
