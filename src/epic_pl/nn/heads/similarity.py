"""The similarity of two modalities as a term of the logits.

Shape legend: B batch, C classes, D features, r width of the common space.
"""

from torch import Tensor, nn

from epic_pl.nn.interaction import ScaledCosine
from epic_pl.nn.pair import Pair, Presence, where_present

_WIDTH = 128
# not zero, since the projections would get no gradient
_WEIGHT_STD = 0.1


class SimilarityHead(nn.Module):
    """``cos(h_v W_v, h_t W_t) / tau``, with a learned weight for each class.

    Whether two modalities match is a bilinear function, which a linear layer on their features
    cannot express. Not part of the paper; any method can use it.

    Args:
        widths: D_v and D_t.
        num_classes: number of classes C.
    """

    def __init__(self, widths: Pair[int], num_classes: int) -> None:
        super().__init__()
        self.down_image, self.down_text = (nn.Linear(width, _WIDTH, bias=False) for width in widths)
        self.cosine = ScaledCosine()
        self.linear = nn.Linear(1, num_classes, bias=False)
        nn.init.normal_(self.linear.weight, std=_WEIGHT_STD)

    def project(self, features: Pair[Tensor], present: Presence) -> Pair[Tensor]:
        """Features ``(B, D_v)`` and ``(B, D_t)`` as ``(B, 1, r)`` each, zero where missing."""
        image = where_present(self.down_image(features.image), present.image)
        text = where_present(self.down_text(features.text), present.text)
        return Pair(image[:, None], text[:, None])

    def forward(self, projected: Pair[Tensor]) -> Tensor:
        """Logits ``(B, C)`` of the output of :meth:`project`; 0 for unimodal samples."""
        logits: Tensor = self.linear(self.cosine(*projected)[:, 0])  # the cosine of zero is zero
        return logits
