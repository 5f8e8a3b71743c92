"""Trained models at work: their files, what they take, exported programs, and sharing."""
