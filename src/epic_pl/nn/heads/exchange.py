"""A small network over both modalities and the similarities of their exchange.

Shape legend: B batch, C classes, D features, n prompts.
"""

import torch
from torch import Tensor, nn

from epic_pl.nn.pair import Pair, Presence, both_present, where_present
from epic_pl.nn.standardization import Standardization

# few, so that the samples cannot be told apart by heart
_SQUEEZED = 16
_HIDDEN = 128
_HIDDEN_DROPOUT = 0.3


class ExchangeHead(nn.Module):
    """``Linear(Dropout(GELU(Linear([h_v W_v; h_t W_t; s]))))`` with s of the first exchange.

    ``s`` tells where the prompts of one modality find themselves in the other: both softmaxes of
    ``S (n, n)``, and how well each prompt fits, ``logsumexp`` of its row or column. Which prompt
    stands where is in their order, so a relation of two things can be read off.

    Args:
        widths: D_v and D_t.
        num_prompts: n; 0 where the method has no exchange, and there is no s.
        num_classes: number of classes C.
    """

    def __init__(self, widths: Pair[int], num_prompts: int, num_classes: int) -> None:
        super().__init__()
        self.squeeze_image, self.squeeze_text = (nn.Linear(width, _SQUEEZED) for width in widths)
        num_scores = 2 * num_prompts * (num_prompts + 1)
        self.standardize = Standardization(num_scores) if num_prompts else None
        self.network = nn.Sequential(
            nn.Linear(2 * _SQUEEZED + num_scores, _HIDDEN),
            nn.GELU(),
            nn.Dropout(_HIDDEN_DROPOUT),
            nn.Linear(_HIDDEN, num_classes),
        )

    def forward(self, features: Pair[Tensor], scores: Tensor | None, present: Presence) -> Tensor:
        """Logits ``(B, C)`` of features ``(B, D_v)`` and ``(B, D_t)``, and ``S (B, n, n)``.

        With a missing modality, ``s`` is zero.
        """
        seen = [self.squeeze_image(features.image), self.squeeze_text(features.text)]
        if self.standardize is not None and scores is not None:
            both = both_present(present)
            matches = [scores.softmax(dim=side).flatten(1) for side in (1, 2)]
            matches += [scores.logsumexp(dim=side) for side in (1, 2)]
            found = self.standardize(torch.cat(matches, dim=1), both)  # (B, 2 n (n + 1))
            seen.append(where_present(found, both))
        logits: Tensor = self.network(torch.cat(seen, dim=1))
        return logits
