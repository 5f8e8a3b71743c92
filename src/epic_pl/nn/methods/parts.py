"""Parts of the text find their places in the image; nothing passes a frozen layer a second time.

Shape legend: B batch, N tokens, P patches, n parts of the text, d width, r common width, C classes.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from epic_pl.lazy_tensor import whole
from epic_pl.nn.base import DualEncoder
from epic_pl.nn.encoders.base import Encoder
from epic_pl.nn.heads import ClassificationHead, HeadConfig, Pooled, where_parts_fit
from epic_pl.nn.interaction import ScaledCosine
from epic_pl.nn.pair import Pair, where_present
from epic_pl.nn.towers import FeatureLevel, Tower, restore_pooled, run_through
from epic_pl.types import Batch, Features

# 12 parts are level with 8 on scenes (docs/method-notes.md)
_PARTS = 8
_WIDTH = 128
_DROPOUT = 0.3
_INIT_STD = 0.02


class TokenState(NamedTuple):
    """The boundary's ``tokens (B, N, d)``, the text's mask ``(B, N)``, and what is pooled."""

    tokens: Tensor
    mask: Tensor | None
    pooled: Pooled


class TokenTower(Tower[TokenState]):
    """A frozen encoder of which a method sees the boundary's tokens and what is pooled."""

    levels: tuple[FeatureLevel, ...] = ("layers",)
    needs = "it uses pooled features beside the boundary's tokens"

    @torch.no_grad()
    def start(self, tokens: Tensor, mask: Tensor | None, present: Tensor | None) -> TokenState:
        """Run the rest of the encoder, and keep what entered it."""
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
        """What was stored."""
        tokens = whole(features["tokens"]).to(self.dtype)
        return TokenState(tokens, mask, restore_pooled(features, self.dtype))

    def pool(self, state: TokenState) -> Pooled:
        """What the whole encoder gave."""
        return state.pooled


class TextParts(nn.Module):
    """``(B, n, d)``: means of n stretches of a text, some words of which count more than others.

    The weights of part j are the softmax over words of a learned score of each word, the same for
    all parts, minus half of the squared distance from the part's middle, in lengths of a part: in
    "the kite is left of the ghost" a part is of the kite, and not of its article. A learned vector
    is added to each part.

    Args:
        number: n.
        width: d.
    """

    no_decay = ("offsets",)

    def __init__(self, number: int, width: int) -> None:
        super().__init__()
        self.number = number
        self.offsets = nn.Parameter(torch.randn(number, width) * _INIT_STD)
        self.norm = nn.LayerNorm(width)
        self.score = nn.Linear(width, 1, bias=False)
        nn.init.zeros_(self.score.weight)

    def forward(self, words: Tensor, mask: Tensor) -> Tensor:
        """The parts of ``words (B, N, d)``, of which ``mask (B, N)`` bool are words."""
        counted = mask.to(words.dtype)[:, None]  # (B, 1, N)
        size = counted.sum(dim=2, keepdim=True) / self.number  # of a part, in words
        middles = torch.arange(self.number, device=words.device)[:, None] + 0.5
        distances = (counted.cumsum(dim=2) - 0.5) / size.clamp(min=1e-6) - middles  # (B, n, N)
        weights = self.score(self.norm(words)).mT - distances.square() / 2
        weights = weights.masked_fill(~mask[:, None], -1e4).softmax(dim=2)
        parts: Tensor = weights @ words + self.offsets
        return parts


class Parts(DualEncoder):
    """``S = cos(A_v, A_t) / tau`` of patches and parts of the text, for the head to read.

    The head reads where in the image each part fits, and how well. No prompt passes a layer, and no
    message is sent. Arguments are those of :class:`~epic_pl.nn.methods.no_prompts.NoPrompts`.
    """

    image_tower: TokenTower
    text_tower: TokenTower

    def __init__(
        self,
        encoders: Pair[Encoder],
        num_classes: int,
        config: Any,
        head: HeadConfig,
        modality_dropout: float,
        boundary: Pair[int],
    ) -> None:
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
        self.head = ClassificationHead(self.widths, num_classes, head, num_scores=4 * _PARTS)

    @property
    def matcher(self) -> ScaledCosine:
        """That of patches and parts."""
        return self.cosine

    def forward(self, batch: Batch) -> Tensor:
        """Logits ``(B, C)``."""
        present = self.presence(batch)
        image, text = self.extract(batch, present)
        patches = image.tokens[:, self.image_encoder.num_prefix_tokens :]
        parts = self.parts(text.tokens, text.mask)
        scores = self.cosine(
            where_present(self.down_image(patches), present.image),
            where_present(self.down_text(parts), present.text),
        )
        logits: Tensor = self.head(self.pool(image, text), None, present, where_parts_fit(scores))
        return logits
