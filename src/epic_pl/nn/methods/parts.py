"""The method Parts: locates parts of the text in the image by similarity, without prompts.

Shape legend: B batch, N tokens, P patches of a square image, n parts of the text, d width, r common
width, C classes.
"""

from dataclasses import dataclass, replace

from torch import Tensor, nn

from epic_pl.nn.base import DualEncoder, Method, layer_pairs
from epic_pl.nn.encoders.base import Encoder
from epic_pl.nn.heads import ClassificationHead, HeadConfig, Output
from epic_pl.nn.hub import Matched, PatchDropout, ScaledCosine, where_parts_fit
from epic_pl.nn.pair import Pair, where_present
from epic_pl.nn.prompts import TextParts
from epic_pl.nn.towers import FrozenTower
from epic_pl.utils.types import Batch

# 12 parts are not better than 8 on scenes (docs/results.md)
_PARTS = 8
_WIDTH = 128
_DROPOUT = 0.3


class Locator(nn.Module):
    """Maps patches and parts to location and match score of each part (:func:`where_parts_fit`).

    Args:
        number: number of parts n.
        width: common width r.

    Attributes:
        size: number of features.
    """

    def __init__(self, number: int, width: int) -> None:
        super().__init__()
        self.number, self.width, self.size = number, width, 3 * number

    def forward(self, projected: Pair[Tensor], similarities: Tensor) -> Tensor:
        """Features ``(B, size)`` from ``A_v (B, P, r)``, ``A_t (B, n, r)`` and ``S (B, P, n)``."""
        return where_parts_fit(similarities)


class PartsModel(DualEncoder):
    """A head on the similarities ``S = cos(A_v, A_t) / tau`` of patches and parts of the text.

    The head gets the location and the match score of each part. There are no prompts and no
    messages. The head's network "none" becomes "wide". Subclasses set another :attr:`locator`.
    """

    locator: type[Locator] = Locator

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
        self.down_image, self.down_text = (
            nn.Sequential(
                nn.LayerNorm(width, elementwise_affine=False),
                PatchDropout(_DROPOUT),
                nn.Linear(width, _WIDTH),
            )
            for width in self.widths
        )
        self.cosine = ScaledCosine()
        self.locate = self.locator(_PARTS, _WIDTH)
        self.head = ClassificationHead(
            self.widths, num_classes, head, num_part_features=self.locate.size
        )

    def forward(self, batch: Batch) -> Output:
        """The head's output for the pooled features and the places of the parts."""
        present = self.presence(batch)
        image, text = self.extract(batch, present)
        parts = self.parts(text.content_tokens(), text.mask)  # (B, n, d_t)
        projected = Pair(
            where_present(self.down_image(image.content_tokens()), present.image),  # (B, P, r)
            where_present(self.down_text(parts), present.text),  # (B, n, r)
        )
        places = self.locate(projected, self.cosine(*projected))
        matched = Matched(*projected, self.cosine.temperature)
        pooled = Pair(image.pool(), text.pool())
        return self.classify(pooled, None, present, places, matched)


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
