"""The matching loss: contrastive loss between images and texts of a batch.

Shape legend: B batch, n prompts (or one vector), r width of the common space.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from epic_pl.nn.interaction import ScaledCosine
from epic_pl.nn.pair import Pair
from epic_pl.utils.errors import ConfigError


class MatchingLoss:
    """InfoNCE (arXiv 1807.03748) in both directions within a batch, as in CLIP (arXiv 2103.00020).

    A small training set has too few labels to learn the alignment of image and text. This loss
    learns it from matching pairs, with B - 1 negatives for each. The score of image i and text j is
    ``logsumexp S_ij`` over the prompts of one modality, averaged over the prompts of the other.
    Each rank of a distributed run compares within its own batch.

    Args:
        classes: labels of the rows that match.

    Example:
        >>> compared = Pair(torch.ones(4, 1, 8), torch.ones(4, 1, 8))  # all alike: log B
        >>> MatchingLoss([1])(ScaledCosine(learned=False), compared, torch.tensor([1, 0, 1, 1]))
        tensor(1.3863)
    """

    def __init__(self, classes: Sequence[int]) -> None:
        self.classes = torch.tensor(classes)

    def __call__(self, matcher: ScaledCosine, compared: Pair[Tensor], labels: Tensor) -> Tensor:
        """The loss of features ``compared``, ``(B, n, r)`` each; 0 if no row matches.

        ``labels (B,)`` are class indices.
        """
        image, text = compared
        size = len(labels)
        # features of a missing modality are zero
        both = image.flatten(1).any(dim=1) & text.flatten(1).any(dim=1)
        rows = torch.isin(labels, self.classes.to(labels.device)) & both
        similarities: Tensor = matcher(image.flatten(0, 1)[None], text.flatten(0, 1)[None])
        similarities = similarities.view(size, -1, size, text.shape[1])  # (B, n, B, n)
        fit = similarities.logsumexp(dim=1).mean(dim=2) + similarities.logsumexp(dim=3).mean(dim=1)
        own = torch.arange(size, device=labels.device)
        losses = sum(F.cross_entropy(logits / 2, own, reduction="none") for logits in (fit, fit.T))
        return (torch.where(rows, losses, 0).sum() / 2) / rows.sum().clamp(min=1)


def build_matching_loss(
    matcher: ScaledCosine | None, matched: Sequence[str] | None, class_names: Sequence[str]
) -> MatchingLoss | None:
    """The matching loss; None without matched classes, or if the model compares nothing.

    Raises:
        ConfigError: if a matched class does not exist.
    """
    for name in matched or ():
        if name not in class_names:
            raise ConfigError(
                f"model.loss.matched_classes names {name!r}, which is no class; the classes are "
                f"{', '.join(class_names)}."
            )
    if not matched or matcher is None:
        return None
    return MatchingLoss([class_names.index(name) for name in matched])
