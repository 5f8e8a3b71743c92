"""What the names of the classes tell the text encoder.

Shape legend: C classes, P vectors of a text, d text width.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from epic_pl.nn.encoders.base import Encoder

_BATCH = 64


@torch.no_grad()
def encode_names(
    encoder: Encoder, tokenizer: Any, names: Sequence[str], layers: Sequence[int] = ()
) -> Tensor:
    """``(C, P, d)``: the names as the encoder pools them, ``_`` and ``-`` read as spaces.

    Args:
        encoder: of texts.
        tokenizer: its own, as from :func:`epic_pl.data.preprocessing.load_tokenizer`.
        names: C of them, none empty.
        layers: rising; the means of the tokens that enter them come behind.
    """
    device = next(encoder.parameters()).device
    words = [name.replace("_", " ").replace("-", " ").strip() or name for name in names]
    encoded = []
    for start in range(0, len(words), _BATCH):
        tokens = tokenizer(
            words[start : start + _BATCH], padding=True, truncation=True, return_tensors="pt"
        )
        mask = tokens["attention_mask"].to(device).bool()
        states = encoder.embed(tokens["input_ids"].to(device))
        vectors, reached = [], 0
        for layer in layers:
            states, reached = encoder.run_layers(reached, layer, states, mask), layer
            vectors.append(encoder.mean(states, mask))
        states = encoder.run_layers(reached, encoder.num_layers, states, mask)
        encoded.append(torch.stack([encoder.pool(states, mask), *vectors], dim=1))
    return torch.cat(encoded)
