"""The classification head of all methods, with optional parts.

Shape legend: B batch, C classes, n prompts, d encoder width, D features of a modality, r width of
the similarity's common space.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from epic_pl.nn.heads.experts import ModalityExperts
from epic_pl.nn.heads.network import Network, NetworkHead
from epic_pl.nn.interaction import ScaledCosine
from epic_pl.nn.pair import Pair, Presence, both_present, where_present
from epic_pl.nn.standardization import Standardization
from epic_pl.utils.validate import check_choices, check_probabilities

# factor of torch's initial weights; at 1, logits of rare labels would vary by half a unit
_INITIAL_SCALE = 0.1
# width r of the similarity's common space
_COMMON_WIDTH = 128
# standard deviation of the similarity's initial weights; with zeros the projections would get no
# gradient
_WEIGHT_STD = 0.1


@dataclass(frozen=True)
class HeadConfig:
    """Optional parts of the head; they are not part of the paper's method.

    Attributes:
        boundary: whether to add the mean of the tokens that enter the first interaction layer.
        similarity: whether to add a term for the similarity of both modalities.
        network: "none" is a linear layer; "wide" adds a network with one hidden layer on the
            features and the locations of the text's parts, and an expert on each modality
            (:class:`~epic_pl.nn.heads.experts.ModalityExperts`); "squeezed" is the network alone,
            on features projected to few dimensions, for labels that say how image and text match.
        dropout: dropout rate of the features.

    Example:
        >>> HeadConfig(similarity=False, network="none")
        HeadConfig(boundary=True, similarity=False, network='none', dropout=0.1)
    """

    boundary: bool = True
    similarity: bool = True
    network: Network = "wide"
    dropout: float = 0.1

    def __post_init__(self) -> None:
        check_choices(self)
        check_probabilities(self, "dropout")


class Pooled(NamedTuple):
    """Pooled features of one modality.

    ``output (B, d)`` is the encoder's pooled output; the boundary features ``boundary (B, d)`` are
    the mean of the tokens that enter the first interaction layer.
    """

    output: Tensor
    boundary: Tensor


class HeadOutput(NamedTuple):
    """The logits of a batch, and what they are made of."""

    logits: Tensor
    """The answer ``(B, C)``."""
    projected: Pair[Tensor] | None
    """Projections ``(B, 1, r)`` of the similarity term, if the head has one."""
    trained: dict[str, Tensor]
    """Logits ``(B, C)`` that each get a loss in training, by name."""
    candidates: Tensor | None
    """Logits ``(B, 2, C)`` with and without the experts, if the head has these."""


class ModalityFeatures(nn.Module):
    """Features ``h_m (B, D)``: standardised pooled output, boundary features and mean prompt.

    If the modality is missing, a learned missing-modality embedding replaces the encoder's part.
    It is initialised as zero, the features' mean over the training set. In a unimodal sample, the
    mean prompts of both modalities are zero, since they could not interact.

    Args:
        width: encoder width d.
        boundary: whether to include the boundary features.
        prompts: whether to include the mean prompt.
    """

    def __init__(self, width: int, boundary: bool, prompts: bool) -> None:
        super().__init__()
        encoder_width = width * (1 + boundary)
        self.boundary = boundary
        self.standardize_encoder = Standardization(encoder_width)
        self.missing = nn.Parameter(torch.zeros(encoder_width))
        self.standardize_prompts = Standardization(width) if prompts else None
        self.encoder_width = encoder_width
        self.width = encoder_width + width * prompts

    def forward(
        self,
        pooled: Pooled,
        prompts: Tensor | None,
        present: Tensor | None,
        both: Tensor | None,
    ) -> Tensor:
        """The features ``h_m (B, D)`` from ``pooled`` and prompts ``(B, n, d)``.

        ``present (B,)`` marks samples with the modality, ``both (B,)`` those with both.
        """
        output = pooled.output
        if self.boundary:
            output = torch.cat([output, pooled.boundary], dim=-1)
        features = self.standardize_encoder(output, present)
        # use the embedding in every step, since DDP waits for its gradient
        mask = torch.ones_like(output[:, 0], dtype=torch.bool) if present is None else present
        features = torch.where(mask[:, None], features, self.missing.to(features.dtype))
        if self.standardize_prompts is None or prompts is None:
            return features
        # prompts of unimodal samples would be outliers for the statistics of complete samples
        mean = self.standardize_prompts(prompts.mean(dim=1), both)
        return torch.cat([features, where_present(mean, both)], dim=-1)


class SimilarityHead(nn.Module):
    """The similarity ``cos(h_v W_v, h_t W_t) / tau`` times a learned weight for each class.

    Whether two modalities match is a bilinear function, which a linear layer on their features
    cannot express. Not part of the paper; any method can use it.

    Args:
        widths: D_v and D_t.
        num_classes: number of classes C.
    """

    def __init__(self, widths: Pair[int], num_classes: int) -> None:
        super().__init__()
        self.down_image, self.down_text = (
            nn.Linear(width, _COMMON_WIDTH, bias=False) for width in widths
        )
        self.cosine = ScaledCosine()
        self.linear = nn.Linear(1, num_classes, bias=False)
        nn.init.normal_(self.linear.weight, std=_WEIGHT_STD)

    def project(self, features: Pair[Tensor], present: Presence) -> Pair[Tensor]:
        """Project features ``(B, D_v)`` and ``(B, D_t)`` to ``(B, 1, r)``; zero where missing."""
        image = where_present(self.down_image(features.image), present.image)
        text = where_present(self.down_text(features.text), present.text)
        return Pair(image[:, None], text[:, None])

    def forward(self, projected: Pair[Tensor]) -> Tensor:
        """Logits ``(B, C)`` from the output of :meth:`project`; 0 for unimodal samples."""
        logits: Tensor = self.linear(self.cosine(*projected)[:, 0])  # the cosine of zero is zero
        return logits


class ClassificationHead(nn.Module):
    """``logits = Linear(Dropout([h_v; h_t]))`` with the optional parts of the config.

    Args:
        widths: d_v and d_t.
        num_classes: number of classes C.
        config: parts of the head.
        prompts: whether the method has prompts.
        num_part_features: number of features from the method's exchange; 0 without one.

    Example:
        >>> head = ClassificationHead(Pair(384, 256), num_classes=3, config=HeadConfig())
        >>> image, text = (Pooled(torch.randn(4, d), torch.randn(4, d)) for d in (384, 256))
        >>> output = head(Pair(image, text), prompts=None, present=Pair(None, None))
        >>> output.logits.shape, list(output.trained)
        (torch.Size([4, 3]), ['joint', 'image', 'text'])
    """

    def __init__(
        self,
        widths: Pair[int],
        num_classes: int,
        config: HeadConfig,
        *,
        prompts: bool = False,
        num_part_features: int = 0,
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
            else NetworkHead(features, num_part_features, num_classes, config.network)
        )
        self.similarity = SimilarityHead(features, num_classes) if config.similarity else None
        alone = Pair(self.image.encoder_width, self.text.encoder_width)
        self.experts = ModalityExperts(alone, num_classes) if config.network == "wide" else None

    @property
    def never_missing(self) -> list[str]:
        """Modalities that every training sample had, so that their embedding is not trained."""
        parts = {"image": self.image, "text": self.text}
        return [name for name, part in parts.items() if not part.missing.any()]

    @torch.no_grad()
    def start_at(self, prior: Tensor) -> None:
        """Initialise the last layer so that logits are close to ``prior (C,)``.

        *Focal Loss for Dense Object Detection*, arXiv 1708.02002, section 3.3: with other biases
        the loss is at first dominated by the low frequency of rare labels.
        """
        *_, last = (m for m in self.classifier.modules() if isinstance(m, nn.Linear))
        last.weight.mul_(_INITIAL_SCALE)
        last.bias.copy_(prior)
        if self.experts is not None:
            self.experts.start_at(prior)

    def forward(
        self,
        pooled: Pair[Pooled],
        prompts: Pair[Tensor] | None,
        present: Presence,
        part_features: Tensor | None = None,
    ) -> HeadOutput:
        """The output for pooled features, the last prompts ``(B, n, d)``, and part features s."""
        both = both_present(present)
        features = Pair(
            self.image(pooled.image, prompts and prompts.image, present.image, both),
            self.text(pooled.text, prompts and prompts.text, present.text, both),
        )
        dropped = Pair(self.dropout(features.image), self.dropout(features.text))
        if isinstance(self.classifier, NetworkHead):
            logits: Tensor = self.classifier(dropped, part_features, present)
        else:
            logits = self.classifier(torch.cat(dropped, dim=-1))
        projected = None
        if self.similarity is not None:
            projected = self.similarity.project(features, present)
            logits = logits + self.similarity(projected)
        if self.experts is None:
            return HeadOutput(logits, projected, {"joint": logits}, None)
        alone = Pair(
            dropped.image[:, : self.image.encoder_width], dropped.text[:, : self.text.encoder_width]
        )
        experts = self.experts(alone, present)
        candidates = self.experts.candidates(logits, experts)
        trained = {"joint": logits, **experts._asdict()}
        return HeadOutput(self.experts.answer(candidates), projected, trained, candidates)
