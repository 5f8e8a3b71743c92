"""Locates parts of the text in the image by similarity; no prompt passes through a frozen layer.

Shape legend: B batch, N tokens, P patches, n parts of the text, d width, r common width, C classes.
"""

from dataclasses import replace
from typing import Any

from torch import nn

from epic_pl.nn.base import DualEncoder, Output
from epic_pl.nn.encoders.base import Encoder
from epic_pl.nn.heads import ClassificationHead, HeadConfig
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
from epic_pl.nn.towers import FrozenTower
from epic_pl.types import Batch

# 12 parts are level with 8 on scenes (docs/method-notes.md)
_PARTS = 8
_WIDTH = 128
_DROPOUT = 0.3


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
            FrozenTower(encoders.image, [boundary.image], keeps_tokens=True),
            FrozenTower(encoders.text, [boundary.text], keeps_tokens=True),
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
        patches = image.entered[:, self.image_encoder.num_prefix_tokens :]
        parts = self.parts(text.entered, text.mask)  # (B, n, d_t)
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
