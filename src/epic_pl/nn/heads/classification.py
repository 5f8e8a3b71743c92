"""The classification head: one for all methods, with parts that each may switch on.

Shape legend: B batch, C classes, n prompts, d encoder width, D features of a modality.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from epic_pl.nn.heads.network import Network, NetworkHead
from epic_pl.nn.heads.similarity import SimilarityHead
from epic_pl.nn.pair import Pair, Presence, both_present, where_present
from epic_pl.nn.standardization import Standardization
from epic_pl.validate import check_choices, check_probabilities

# of torch's own weights, with which logits of rare labels would vary by half a unit
_INITIAL_SCALE = 0.1


@dataclass(frozen=True)
class HeadConfig:
    """Parts of the head; the paper's has none of them.

    Attributes:
        boundary: also see the mean of the tokens that enter the first interaction layer.
        similarity: add a term for the similarity of both modalities.
        network: what stands in place of the linear layer: "none"; "wide", a network with one hidden
            layer over the features and the exchange's similarities; "squeezed", the same over few
            numbers of the features, for questions of whether and how image and text match.
        dropout: probability with which a feature is dropped in training.
    """

    boundary: bool = True
    similarity: bool = True
    network: Network = "wide"
    dropout: float = 0.1

    def __post_init__(self) -> None:
        check_choices(self)
        check_probabilities(self, "dropout")


class Pooled(NamedTuple):
    """What is pooled of one modality.

    ``output (B, d)`` is the encoder's pooled output; the boundary features ``boundary (B, d)`` are
    the mean of the tokens that enter the first interaction layer.
    """

    output: Tensor
    boundary: Tensor


class ModalityFeatures(nn.Module):
    """``h_m (B, D)``: standardised pooled output, boundary features and mean prompt.

    A sample without the modality has a learned missing-modality embedding in place of the encoder's
    part. It starts at zero, the features' mean over the training set. In a unimodal sample, zero
    takes the place of the mean prompts of both modalities, which could not interact.

    Args:
        width: encoder width d.
        boundary: whether the boundary features are among them.
        prompts: whether the mean prompt is among them.
    """

    def __init__(self, width: int, boundary: bool, prompts: bool) -> None:
        super().__init__()
        encoder_width = width * (1 + boundary)
        self.boundary = boundary
        self.encoder = Standardization(encoder_width)
        self.missing = nn.Parameter(torch.zeros(encoder_width))
        self.prompts = Standardization(width) if prompts else None
        self.width = encoder_width + width * prompts

    def forward(
        self,
        pooled: Pooled,
        prompts: Tensor | None,
        present: Tensor | None,
        both: Tensor | None,
    ) -> Tensor:
        """Features of ``pooled`` and prompts ``(B, n, d)``.

        ``present (B,)`` masks samples with the modality, ``both (B,)`` those with both.
        """
        output = pooled.output
        if self.boundary:
            output = torch.cat([output, pooled.boundary], dim=-1)
        features = self.encoder(output, present)
        # DDP waits for a gradient of the embedding in every step
        there = torch.ones_like(output[:, 0], dtype=torch.bool) if present is None else present
        features = torch.where(there[:, None], features, self.missing.to(features.dtype))
        if self.prompts is None or prompts is None:
            return features
        # prompts of unimodal samples lie far outside of the statistics of complete ones
        mean = where_present(self.prompts(prompts.mean(dim=1), both), both)
        return torch.cat([features, mean], dim=-1)


class ClassificationHead(nn.Module):
    """``logits = Linear(Dropout([h_v; h_t]))``, and the terms that the config switches on.

    Args:
        widths: d_v and d_t.
        num_classes: number of classes C.
        config: parts of the head.
        prompts: whether the method has prompts for the head to see.
        num_scores: numbers that tell of the method's exchange; 0 where it has none.
    """

    def __init__(
        self,
        widths: Pair[int],
        num_classes: int,
        config: HeadConfig,
        *,
        prompts: bool = False,
        num_scores: int = 0,
    ) -> None:
        super().__init__()
        self.image, self.text = (
            ModalityFeatures(width, config.boundary, prompts) for width in widths
        )
        features = Pair(self.image.width, self.text.width)
        self.num_features = sum(features)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier: nn.Module = (
            nn.Linear(self.num_features, num_classes)
            if config.network == "none"
            else NetworkHead(features, num_scores, num_classes, config.network)
        )
        self.similarity = SimilarityHead(features, num_classes) if config.similarity else None

    @property
    def never_missing(self) -> list[str]:
        """The modalities that no training sample lacked: their embedding is where it started."""
        parts = {"image": self.image, "text": self.text}
        return [name for name, part in parts.items() if not part.missing.any()]

    @torch.no_grad()
    def start_at(self, prior: Tensor) -> None:
        """Set the last layer to logits close to ``prior (C,)``, which training starts from.

        *Focal Loss for Dense Object Detection*, arXiv 1708.02002, section 3.3: at other biases the
        loss of rare labels is that of their base rate, and the whole model is trained to move it.
        """
        *_, last = (m for m in self.classifier.modules() if isinstance(m, nn.Linear))
        last.weight.mul_(_INITIAL_SCALE)
        last.bias.copy_(prior)

    def forward(
        self,
        pooled: Pair[Pooled],
        prompts: Pair[Tensor] | None,
        present: Presence,
        scores: Tensor | None = None,
    ) -> tuple[Tensor, Pair[Tensor] | None]:
        """Logits ``(B, C)`` of pooled features, last prompts ``(B, n, d)`` and the exchange's s.

        Beside them what the similarity term compares, ``(B, 1, r)`` each, or None without one.
        """
        both = both_present(present)
        features = Pair(
            self.image(pooled.image, prompts and prompts.image, present.image, both),
            self.text(pooled.text, prompts and prompts.text, present.text, both),
        )
        dropped = Pair(self.dropout(features.image), self.dropout(features.text))
        if isinstance(self.classifier, NetworkHead):
            logits: Tensor = self.classifier(dropped, scores, present)
        else:
            logits = self.classifier(torch.cat(dropped, dim=-1))
        if self.similarity is None:
            return logits, None
        projected = self.similarity.project(features, present)
        return logits + self.similarity(projected), projected
