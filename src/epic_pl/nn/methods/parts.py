"""The method Parts: locates parts of the text in the image by similarity, without prompts.

Shape legend: B batch, N tokens, P patches of a square image, m parts of the text, d width, r common
width, C classes.
"""

from dataclasses import dataclass, replace

from torch import Tensor

from epic_pl.nn.base import DualEncoder, Method, layer_pairs
from epic_pl.nn.encoders.base import Encoder
from epic_pl.nn.heads import ClassificationHead, HeadConfig, Output
from epic_pl.nn.hub import BottleneckHub, Matched, where_parts_fit
from epic_pl.nn.pair import Pair
from epic_pl.nn.prompts import TextParts
from epic_pl.nn.towers import FrozenTower
from epic_pl.utils.types import Batch

# 12 parts are not better than 8 on scenes (docs/results.md)
_PARTS = 8
_WIDTH = 128
_DROPOUT = 0.3


class PartsModel(DualEncoder):
    """A head on the similarities ``S = cos(A_v, A_t) / tau`` of patches and parts of the text.

    They are those of the hub before EPIC's first step (:meth:`~epic_pl.nn.hub.Hub.compare`). The
    head gets the location and the match score of each part. There are no prompts and no messages.
    The head's network "none" becomes "wide".
    """

    def __init__(
        self, encoders: Pair[Encoder], num_classes: int, method: "Parts", head: HeadConfig
    ) -> None:
        boundary = Pair(*layer_pairs(method.interaction_layers, encoders)[0])
        if head.network == "none":  # a linear layer gets no locations
            head = replace(head, network="wide")
        super().__init__(
            FrozenTower(encoders.image, [boundary.image], keeps_tokens=True),
            FrozenTower(encoders.text, [boundary.text], keeps_tokens=True),
        )
        self.parts = TextParts(_PARTS, self.widths.text)
        self.hub = BottleneckHub(self.widths, _WIDTH, _DROPOUT, messages=False)
        self.head = ClassificationHead(
            self.widths, num_classes, head, num_part_features=self.build_locator()
        )

    def build_locator(self) -> int:
        """Build what :meth:`locate` needs, and return the number of its features."""
        return 3 * _PARTS

    def locate(self, projected: Pair[Tensor], similarities: Tensor) -> Tensor:
        """Features of the head from ``A_v (B, P, r)``, ``A_t (B, m, r)`` and ``S (B, P, m)``."""
        return where_parts_fit(similarities)

    def forward(self, batch: Batch) -> Output:
        """The head's output for the pooled features and the places of the parts."""
        present = self.presence(batch)
        image, text = self.extract(batch, present)
        parts = self.parts(text.content_tokens(), text.mask)  # (B, m, d_t)
        projected, similarities = self.hub.compare(Pair(image.content_tokens(), parts), present)
        places = self.locate(projected, similarities)
        matched = Matched(*projected, self.hub.similarity.temperature)
        pooled = Pair(image.pool(), text.pool())
        return self.classify(batch, pooled, None, present, places, matched)


@dataclass(frozen=True)
class Parts(Method):
    """Locates 8 parts of the text among the image patches.

    Attributes:
        interaction_layers: layers as in :class:`~epic_pl.nn.epic.EPIC`, of which the first pair
            alone is used: the tokens that enter it are compared.

    Example:
        >>> Parts().build(encoders, num_classes=3)(batch).logits.shape
        torch.Size([4, 3])
    """

    model = PartsModel

    interaction_layers: int | list[list[int]] = 2
