"""Controls of the method Parts: the same parts and patches, read in another way.

Shape legend: B batch, P patches of a square image, n parts of the text, r common width.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from epic_pl.nn.hub import grid_side, patch_places, segment_means
from epic_pl.nn.methods.parts import Parts, PartsModel
from epic_pl.nn.pair import Pair

_CELLS = 16
_LAYERS = 2
_ATTENTION_HEADS = 4
_CHANNELS = 64


class Locator(nn.Module):
    """Maps patches and parts to features of the head.

    Args:
        number: number of parts n.
        width: common width r.

    Attributes:
        size: number of features.
    """

    size: int

    def __init__(self, number: int, width: int) -> None:
        super().__init__()
        self.number, self.width = number, width


class MeanLocator(Locator):
    """The parts and means of 16 image cells: late fusion of parts."""

    def __init__(self, number: int, width: int) -> None:
        super().__init__(number, width)
        self.size = (_CELLS + number) * width + number

    def forward(self, projected: Pair[Tensor], similarities: Tensor) -> Tensor:
        """Normalised cells and parts, concatenated, and the match score of each part."""
        cells = segment_means(projected.image, _CELLS)
        parts = F.normalize(torch.cat([cells, projected.text], dim=1), dim=-1)
        return torch.cat([parts.flatten(1), similarities.logsumexp(dim=1)], dim=1)


class AttentionLocator(Locator):
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

    def forward(self, projected: Pair[Tensor], similarities: Tensor) -> Tensor:
        """Outputs of the parts, and the match score of each part."""
        image, text = (F.normalize(side, dim=-1) * math.sqrt(self.width) for side in projected)
        places = patch_places(image.shape[1]).to(image)
        outputs: Tensor = self.layers(text + self.positions, image + self.place(places))
        return torch.cat([outputs.flatten(1), similarities.logsumexp(dim=1)], dim=1)


class MapLocator(Locator):
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

    def forward(self, projected: Pair[Tensor], similarities: Tensor) -> Tensor:
        """Outputs on a grid of 2 x 2, and the match score of each part."""
        side = grid_side(similarities.shape[1])
        outputs = self.layers(similarities.mT.reshape(-1, self.number, side, side))
        return torch.cat([outputs, similarities.logsumexp(dim=1)], dim=1)


class LocatorModel(PartsModel):
    """Parts with another locator."""

    locator: type[Locator]

    def build_locator(self) -> int:
        """Build the locator."""
        self.located = self.locator(self.parts.number, self.hub.down_text.out_features)
        return self.located.size

    def locate(self, projected: Pair[Tensor], similarities: Tensor) -> Tensor:
        """The locator's features."""
        features: Tensor = self.located(projected, similarities)
        return features


class PartMeansModel(LocatorModel):
    """Late fusion of the parts of both modalities."""

    locator = MeanLocator


class CrossAttentionModel(LocatorModel):
    """The parts attend to the patches in two trained layers."""

    locator = AttentionLocator


class SimilarityMapModel(LocatorModel):
    """A convolution over S."""

    locator = MapLocator


@dataclass(frozen=True)
class PartMeans(Parts):
    """Options as in :class:`Parts`."""

    model = PartMeansModel


@dataclass(frozen=True)
class CrossAttention(Parts):
    """Options as in :class:`Parts`."""

    model = CrossAttentionModel


@dataclass(frozen=True)
class SimilarityMap(Parts):
    """Options as in :class:`Parts`."""

    model = SimilarityMapModel
