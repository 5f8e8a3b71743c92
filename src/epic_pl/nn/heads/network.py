"""A small network on the features of both modalities and of their exchange.

Shape legend: B batch, C classes, D features, P patches, n_t parts of the text.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from epic_pl.nn.encoders.segments import patch_places
from epic_pl.nn.pair import Pair, Presence, both_present, where_present
from epic_pl.nn.standardization import Standardization

# few, to avoid overfitting
_SQUEEZED = 16
_HIDDEN = 128
_HIDDEN_DROPOUT = 0.3

Network = Literal["none", "wide", "squeezed"]


class GEGLU(nn.Module):
    """``a * GELU(b)`` of ``[a; b]`` (*GLU Variants Improve Transformer*, arXiv 2002.05202).

    Whether "left of" is true depends on a product of text features and locations. A gated layer
    can express it; a layer without a gate has to approximate it.
    """

    def forward(self, halves: Tensor) -> Tensor:
        """Outputs ``(..., D)`` of inputs ``(..., 2 D)``."""
        value, gate = halves.chunk(2, dim=-1)
        return value * F.gelu(gate)


class NetworkHead(nn.Module):
    """``Linear(Dropout(GEGLU(Linear([h_v; h_t; s]))))`` with features s of the first exchange.

    ``s`` comes from :func:`where_parts_fit` or another :class:`~epic_pl.nn.methods.parts.Reader`.
    The parts have a fixed order, so s shows how two objects are placed. "squeezed" first projects
    each modality to 16 dimensions, so that the network depends mostly on ``s``.

    Args:
        widths: D_v and D_t.
        num_part_features: length of s; 0 if the method has no exchange.
        num_classes: number of classes C.
        network: "wide" or "squeezed".
    """

    def __init__(
        self, widths: Pair[int], num_part_features: int, num_classes: int, network: Network
    ) -> None:
        super().__init__()
        if network == "squeezed":
            self.squeeze_image, self.squeeze_text = (
                nn.Linear(width, _SQUEEZED) for width in widths
            )
            widths = Pair(_SQUEEZED, _SQUEEZED)
        self.squeezed = network == "squeezed"
        self.linear = None if self.squeezed else _zeros(sum(widths), num_classes)
        self.standardize = Standardization(num_part_features) if num_part_features else None
        self.network = nn.Sequential(
            nn.Linear(sum(widths) + num_part_features, 2 * _HIDDEN),
            GEGLU(),
            nn.Dropout(_HIDDEN_DROPOUT),
            nn.Linear(_HIDDEN, num_classes),
        )

    def forward(
        self, features: Pair[Tensor], part_features: Tensor | None, present: Presence
    ) -> Tensor:
        """Logits ``(B, C)`` from features ``(B, D_v)`` and ``(B, D_t)`` and part features ``s``.

        ``s (B, num_part_features)`` must be zero for unimodal samples.
        """
        seen = list(features)
        if self.squeezed:
            seen = [self.squeeze_image(features.image), self.squeeze_text(features.text)]
        if self.standardize is not None and part_features is not None:
            both = both_present(present)
            seen.append(where_present(self.standardize(part_features, both), both))
        logits: Tensor = self.network(torch.cat(seen, dim=1))
        return logits if self.linear is None else logits + self.linear(torch.cat(features, dim=1))


def _zeros(width: int, num_classes: int) -> nn.Linear:
    linear = nn.Linear(width, num_classes)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def where_parts_fit(similarities: Tensor) -> Tensor:
    """Locations ``s (B, 3 n_t)`` of the text's parts in the image, from ``S (B, P, n_t)``.

    For each part they are its mean row and column under the softmax over patches, and its match
    score (``logsumexp`` over patches).
    """
    shares = similarities.softmax(dim=1)
    places = patch_places(similarities.shape[1]).to(shares)  # (P, 2)
    return torch.cat([(places.T @ shares).flatten(1), similarities.logsumexp(dim=1)], dim=1)
