"""Logits with labels for tests of calibration."""

import torch


def drawn(task, sharpness, count=400, classes=5, seed=0):
    """Logits whose labels are drawn from the probabilities at ``logits / sharpness``."""
    generator = torch.Generator().manual_seed(seed)
    true = 2 * torch.randn(count, classes, generator=generator)
    if task == "multilabel":
        labels = torch.bernoulli(true.sigmoid(), generator=generator).int()
    else:
        labels = torch.multinomial(true.softmax(dim=1), 1, generator=generator)[:, 0]
    return true * sharpness, labels
