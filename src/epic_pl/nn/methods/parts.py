"""Locates parts of the text in the image by similarity; no prompt passes through a frozen layer.

Shape legend: B batch, N tokens, P patches of a square image, n parts of the text, d width, r common
width, C classes.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from epic_pl.nn.base import DualEncoder, Output
from epic_pl.nn.encoders.base import Encoder
from epic_pl.nn.encoders.segments import grid_side, patch_places, segment_means
from epic_pl.nn.heads import ClassificationHead, HeadConfig, where_parts_fit
from epic_pl.nn.interaction import ScaledCosine
from epic_pl.nn.pair import Pair, where_present
from epic_pl.nn.prompts import TextParts
from epic_pl.nn.towers import FrozenTower
from epic_pl.utils.types import Batch

# 12 parts are level with 8 on scenes (docs/method-notes.md)
_PARTS = 8
_WIDTH = 128
_DROPOUT = 0.3
_CELLS = 16
_LAYERS = 2
_ATTENTION_HEADS = 4
_CHANNELS = 64


class Reader(nn.Module, ABC):
    """Maps patches and parts to features ``(B, size)`` for the head.

    Args:
        number: n.
        width: r.
    """

    size: int

    def __init__(self, number: int, width: int) -> None:
        super().__init__()
        self.number, self.width = number, width

    @abstractmethod
    def forward(self, compared: Pair[Tensor], similarities: Tensor) -> Tensor:
        """Features of ``A_v (B, P, r)``, ``A_t (B, n, r)`` and their ``S (B, P, n)``."""


class PlaceReader(Reader):
    """Location and match score of each part: :func:`where_parts_fit`."""

    def __init__(self, number: int, width: int) -> None:
        super().__init__(number, width)
        self.size = 3 * number

    def forward(self, compared: Pair[Tensor], similarities: Tensor) -> Tensor:
        """Rows, columns and match similarities."""
        return where_parts_fit(similarities)


class MeanReader(Reader):
    """The parts and means of 16 image cells: late fusion of parts."""

    def __init__(self, number: int, width: int) -> None:
        super().__init__(number, width)
        self.size = (_CELLS + number) * width + number

    def forward(self, compared: Pair[Tensor], similarities: Tensor) -> Tensor:
        """Normalised cells and parts, concatenated, and the match score of each part."""
        cells = segment_means(compared.image, _CELLS)
        parts = F.normalize(torch.cat([cells, compared.text], dim=1), dim=-1)
        return torch.cat([parts.flatten(1), similarities.logsumexp(dim=1)], dim=1)


class AttentionReader(Reader):
    """Two layers in which the parts attend to each other and to all patches."""

    def __init__(self, number: int, width: int) -> None:
        super().__init__(number, width)
        self.size = number * (width + 1)
        layer = nn.TransformerDecoderLayer(
            width, _ATTENTION_HEADS, 2 * width, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerDecoder(layer, _LAYERS)
        self.place = nn.Linear(2, width)
        self.positions = nn.Parameter(torch.zeros(number, width))

    def forward(self, compared: Pair[Tensor], similarities: Tensor) -> Tensor:
        """Outputs of the parts, and the match score of each part."""
        image, text = (F.normalize(side, dim=-1) * math.sqrt(self.width) for side in compared)
        places = patch_places(image.shape[1]).to(image)
        outputs: Tensor = self.layers(text + self.positions, image + self.place(places))
        return torch.cat([outputs.flatten(1), similarities.logsumexp(dim=1)], dim=1)


class MapReader(Reader):
    """A convolution over the whole map of similarities, after DCSM (arXiv 2503.08723)."""

    def __init__(self, number: int, width: int) -> None:
        super().__init__(number, width)
        self.size = 4 * _CHANNELS + number
        self.layers = nn.Sequential(
            nn.Conv2d(number, _CHANNELS, 3, padding=1),
            nn.GELU(),
            nn.MaxPool2d(2),
            nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1),
            nn.GELU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
        )

    def forward(self, compared: Pair[Tensor], similarities: Tensor) -> Tensor:
        """Outputs on a grid of 2 x 2, and the match score of each part."""
        side = grid_side(similarities.shape[1])
        outputs = self.layers(similarities.mT.reshape(-1, self.number, side, side))
        return torch.cat([outputs, similarities.logsumexp(dim=1)], dim=1)


class Parts(DualEncoder):
    """A head on ``S = cos(A_v, A_t) / tau`` of patches and parts of the text.

    The head gets the location and the match score of each part. There are no prompts and no
    messages. Arguments are those of :class:`~epic_pl.nn.methods.no_prompts.NoPrompts`; the
    head's network "none" becomes "wide". Subclasses have another :attr:`reader`.
    """

    reader: type[Reader] = PlaceReader

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
        self.head = ClassificationHead(
            self.widths, num_classes, head, num_part_features=self.read.size
        )

    @property
    def matcher(self) -> ScaledCosine:
        """The similarity of patches and parts."""
        return self.cosine

    def forward(self, batch: Batch) -> Output:
        """The head's output for pooled features and the reader's features."""
        present = self.presence(batch)
        image, text = self.extract(batch, present)
        patches = self.image_tower.content_tokens(image.boundary_tokens)
        parts = self.parts(
            self.text_tower.content_tokens(text.boundary_tokens), text.mask
        )  # (B, n, d_t)
        compared = Pair(
            where_present(self.down_image(patches), present.image),  # (B, P, r)
            where_present(self.down_text(parts), present.text),  # (B, n, r)
        )
        read = self.read(compared, self.cosine(*compared))
        return self.classify(self.pool(image, text), None, present, read, compared)


class PartMeans(Parts):
    """Late fusion of the parts of both modalities; a control of :class:`Parts`."""

    reader = MeanReader


class CrossAttention(Parts):
    """The parts attend to the patches in two trained layers; a control of :class:`Parts`."""

    reader = AttentionReader


class SimilarityMap(Parts):
    """A convolution over S; a control of :class:`Parts`."""

    reader = MapReader
