"""Locates parts of the text in the image by similarity; no prompt passes through a frozen layer.

Shape legend: B batch, N tokens, P patches, n parts of the text, d width, r common width, C classes.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from epic_pl.nn.base import DualEncoder, Output
from epic_pl.nn.encoders.base import Encoder
from epic_pl.nn.heads import ClassificationHead, HeadConfig, Pooled
from epic_pl.nn.interaction import ScaledCosine
from epic_pl.nn.methods.readers import (
    AttentionReader,
    MapReader,
    MeanReader,
    PlaceReader,
    Reader,
)
from epic_pl.nn.pair import Pair, where_present
from epic_pl.nn.prompts import TextParts
from epic_pl.nn.towers import FeatureLevel, Tower, restore_pooled, run_through
from epic_pl.types import Batch, Features

# 12 parts are level with 8 on scenes (docs/method-notes.md)
_PARTS = 8
_WIDTH = 128
_DROPOUT = 0.3


class TokenState(NamedTuple):
    """The boundary's ``tokens (B, N, d)``, the text's mask ``(B, N)``, and pooled features."""

    tokens: Tensor
    mask: Tensor | None
    pooled: Pooled


class TokenTower(Tower[TokenState]):
    """A frozen encoder that gives the boundary's tokens and pooled features."""

    levels: tuple[FeatureLevel, ...] = ("layers",)
    needs = "it uses pooled features beside the boundary's tokens"

    @torch.no_grad()
    def start(self, tokens: Tensor, mask: Tensor | None, present: Tensor | None) -> TokenState:
        """Run the rest of the encoder, and keep the boundary's tokens."""
        return TokenState(tokens, mask, run_through(self, tokens, mask))

    def features(
        self, inputs: Tensor, mask: Tensor | None, level: FeatureLevel
    ) -> dict[str, Tensor]:
        """``tokens (B, N, d)``, ``output (B, d)`` and ``boundary (B, d)``."""
        stored = super().features(inputs, mask, level)
        return stored | run_through(self, stored["tokens"], mask)._asdict()

    def restore(
        self, features: Features, mask: Tensor | None, present: Tensor | None
    ) -> TokenState:
        """The stored features."""
        tokens = features["tokens"].to(self.dtype)
        return TokenState(tokens, mask, restore_pooled(features, self.dtype))

    def pool(self, state: TokenState) -> Pooled:
        """The encoder's pooled features."""
        return state.pooled


class Parts(DualEncoder):
    """A head on ``S = cos(A_v, A_t) / tau`` of patches and parts of the text.

    The head gets the location and the match score of each part. There are no prompts and no
    messages. Arguments are those of :class:`~epic_pl.nn.methods.no_prompts.NoPrompts`; the
    head's network "none" becomes "wide". Subclasses have another :attr:`reader`.
    """

    reader: type[Reader] = PlaceReader
    """Maps the similarities to features for the head."""

    def __init__(
        self,
        encoders: Pair[Encoder],
        num_classes: int,
        config: Any,
        head: HeadConfig,
        modality_dropout: float,
        boundary: Pair[int],
    ) -> None:
        if head.network == "none":  # a linear layer gets no locations
            head = replace(head, network="wide")
        super().__init__(
            TokenTower(encoders.image, [boundary.image]),
            TokenTower(encoders.text, [boundary.text]),
            modality_dropout,
        )
        self.parts = TextParts(_PARTS, self.widths.text)
        self.down_image, self.down_text = (
            nn.Sequential(
                nn.LayerNorm(width),
                nn.Dropout(_DROPOUT),
                nn.Linear(width, _WIDTH, bias=False),
            )
            for width in self.widths
        )
        self.cosine = ScaledCosine()
        self.read = self.reader(_PARTS, _WIDTH)
        self.head = ClassificationHead(self.widths, num_classes, head, num_scores=self.read.size)

    @property
    def matcher(self) -> ScaledCosine:
        """The similarity of patches and parts."""
        return self.cosine

    def forward(self, batch: Batch) -> Output:
        """The head's output for pooled features and the reader's features."""
        present = self.presence(batch)
        image, text = self.extract(batch, present)
        patches = image.tokens[:, self.image_encoder.num_prefix_tokens :]
        parts = self.parts(text.tokens, text.mask)  # (B, n, d_t)
        compared = Pair(
            where_present(self.down_image(patches), present.image),  # (B, P, r)
            where_present(self.down_text(parts), present.text),  # (B, n, r)
        )
        numbers = self.read(compared, self.cosine(*compared))
        return self.classify(self.pool(image, text), None, present, numbers, compared)


class PartMeans(Parts):
    """Late fusion of the parts of both modalities; a control of :class:`Parts`."""

    reader = MeanReader


class CrossAttention(Parts):
    """The parts attend to the patches in two trained layers; a control of :class:`Parts`."""

    reader = AttentionReader


class SimilarityMap(Parts):
    """A convolution over S; a control of :class:`Parts`."""

    reader = MapReader
