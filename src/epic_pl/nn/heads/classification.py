"""The classification head of all methods, and its optional parts.

Shape legend: B batch, C classes, n prompts, d encoder width, D features of a modality, r width of
the similarity's common space, P patches, n_t parts of the text, F features of a table's columns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from epic_pl.nn.heads.choice import Choice, PenaltySweep
from epic_pl.nn.heads.inputs import EncoderFeatures, ModalityFeatures, Pooled, Standardization
from epic_pl.nn.heads.trees import BoostedTrees
from epic_pl.nn.hub import Matched, ScaledCosine
from epic_pl.nn.pair import Pair, Presence, Source, both_present, where_present
from epic_pl.utils.validate import check_at_least, check_choices, check_probabilities

# factor of torch's initial weights; at 1, logits of rare labels would vary by half a unit
_INITIAL_SCALE = 0.1
# width r of the similarity's common space
_COMMON_WIDTH = 128
# standard deviation of the similarity's initial weights; with zeros the projections would get no
# gradient
_WEIGHT_STD = 0.1
# few, to avoid overfitting
_SQUEEZED = 16
_HIDDEN = 128
_HIDDEN_DROPOUT = 0.3

Network = Literal["none", "wide", "squeezed"]


@dataclass(frozen=True)
class HeadConfig:
    """Optional parts of the head; they are not part of the paper's method.

    Attributes:
        boundary: whether to add the mean of the tokens that enter the first interaction layer.
        similarity: whether to add a term for the similarity of both modalities.
        network: "none" is a linear layer; "wide" adds a network with one hidden layer on the
            features and the locations of the text's parts, and an expert on each modality
            (:class:`ModalityExperts`); "squeezed" is the network alone,
            on features projected to few dimensions, for labels that say how image and text match.
        dropout: dropout rate of the features.
        columns: number F of the features of a table's columns, which the data tells; see
            :class:`~epic_pl.data.cells.ColumnPreprocessing`.

    Example:
        >>> HeadConfig(similarity=False, network="none")
        HeadConfig(boundary=True, similarity=False, network='none', dropout=0.1, columns=0)
    """

    boundary: bool = True
    similarity: bool = True
    network: Network = "wide"
    dropout: float = 0.1
    columns: int = 0

    def __post_init__(self) -> None:
        check_choices(self)
        check_probabilities(self, "dropout")
        check_at_least(0, columns=self.columns)


class Output(NamedTuple):
    """The logits of a batch, what is trained, and the features behind them."""

    logits: Tensor
    """The answer ``(B, C)``."""
    pooled: Pair[Pooled]
    """Pooled features of both modalities, the input of the head."""
    matched: Matched | None = None
    """Vectors of image and text that the model compares before either depends on the other; None
    if the model compares nothing."""
    trained: Mapping[str, Tensor] | None = None
    """Logits ``(B, C)`` by name, each of which gets a loss in training; None trains the answer."""
    candidates: Tensor | None = None
    """Logits ``(B, k, C)`` of which the head chooses one on validation samples, if it does."""
    penalty: Tensor | None = None
    """A term of the training loss that depends on the weights alone."""
    members: Sequence["Output"] = ()
    """Outputs of an ensemble's members, each of which is trained in place of this one."""


class Head(nn.Module):
    """What heads share: the sources that they read.

    Args:
        image: the features of the image encoder.
        text: the features of the text encoder.
        columns: number F of the features of a table's columns; 0 without.
    """

    def __init__(self, image: EncoderFeatures, text: EncoderFeatures, columns: int) -> None:
        super().__init__()
        self.image, self.text, self.columns = image, text, columns

    @property
    def widths(self) -> dict[str, int]:
        """Number of features of each source by name."""
        own = {"image": self.image.encoder_width, "text": self.text.encoder_width}
        return {**own, "columns": self.columns} if self.columns else own

    def sources(
        self, pooled: Pair[Pooled], present: Presence, cells: Tensor | None
    ) -> dict[str, Source]:
        """Each source by name, as the encoders and the table have it; cells ``(B, F)``."""
        image, text = self.image.of_encoder(pooled.image), self.text.of_encoder(pooled.text)
        made = {"image": Source(image, present.image), "text": Source(text, present.text)}
        if self.columns:
            mask = present.columns
            if cells is None:
                cells = image.new_zeros(len(image), self.columns)
                mask = torch.zeros_like(image[:, 0], dtype=torch.bool)
            made["columns"] = Source(where_present(cells.to(image.dtype), mask), mask)
        return made


class ClassificationHead(Head):
    """``logits = Linear(Dropout([h_v; h_t; c]))`` with the optional parts of the config.

    ``c`` are the features of a table's columns, if it has any.

    Args:
        widths: d_v and d_t.
        num_classes: number of classes C.
        config: parts of the head.
        prompts: whether the method has prompts.
        num_part_features: number of features of the parts of a text; 0 without parts.
        penalties: penalties of a linear layer, of which one is chosen (:class:`PenaltySweep`).

    Example:
        >>> head = ClassificationHead(Pair(384, 256), num_classes=3, config=HeadConfig())
        >>> image, text = (Pooled(torch.randn(4, d), torch.randn(4, d)) for d in (384, 256))
        >>> output = head(Pair(image, text), prompts=None, present=Presence())
        >>> output.logits.shape, list(output.trained)
        (torch.Size([4, 3]), ['joint', 'image', 'text'])
    """

    image: ModalityFeatures
    text: ModalityFeatures

    def __init__(
        self,
        widths: Pair[int],
        num_classes: int,
        config: HeadConfig,
        *,
        prompts: bool = False,
        num_part_features: int = 0,
        penalties: Sequence[float] = (),
    ) -> None:
        image, text = (ModalityFeatures(width, config.boundary, prompts) for width in widths)
        super().__init__(image, text, config.columns)
        features = Pair(image.width, text.width)
        self.num_features = sum(features) + config.columns
        self.dropout = nn.Dropout(config.dropout)
        self.classifier: nn.Module
        if penalties:
            self.classifier = PenaltySweep(self.num_features, num_classes, penalties)
        elif config.network == "none":
            self.classifier = nn.Linear(self.num_features, num_classes)
        else:
            sizes = num_part_features, config.columns, num_classes
            self.classifier = NetworkHead(features, *sizes, config.network)
        self.similarity = SimilarityHead(features, num_classes) if config.similarity else None
        self.experts = self.trees = None
        if config.network == "wide":
            self.experts = ModalityExperts(self.widths, num_classes)
            if config.columns:
                self.trees = BoostedTrees(self.widths, num_classes)

    @property
    def choice(self) -> Choice | None:
        """What validation chooses: the experts' use, or a penalty."""
        return self.classifier if isinstance(self.classifier, PenaltySweep) else self.experts

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
        if isinstance(self.classifier, PenaltySweep):
            return self.classifier.start_at(prior)
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
        cells: Tensor | None = None,
    ) -> Output:
        """The output for pooled features, last prompts ``(B, n, d)``, part features s, and cells c.

        The similarity term compares its projections ``(B, 1, r)``.
        """
        sources, both = self.sources(pooled, present, cells), both_present(present)
        features = Pair(
            self.image(pooled.image, prompts and prompts.image, present.image, both),
            self.text(pooled.text, prompts and prompts.text, present.text, both),
        )
        dropped = Pair(self.dropout(features.image), self.dropout(features.text))
        others = [source.features for source in list(sources.values())[len(dropped) :]]
        joined = torch.cat([*dropped, *others], dim=-1)
        if isinstance(self.classifier, PenaltySweep):
            swept = self.classifier(joined)
            answer, trained = self.classifier.answer(swept), self.classifier.named(swept)
            return Output(answer, pooled, None, trained, swept, self.classifier.penalty())
        if isinstance(self.classifier, NetworkHead):
            logits: Tensor = self.classifier(dropped, part_features, others, present)
        else:
            logits = self.classifier(joined)
        matched = None
        if self.similarity is not None:
            projected = self.similarity.project(features, present)
            logits = logits + self.similarity(projected)
            matched = Matched(*projected, self.similarity.cosine.temperature)
        if self.experts is None:
            return Output(logits, pooled, matched, {"joint": logits})
        alone = {**sources}  # of the encoders standardised, with dropout
        for name, part in dropped._asdict().items():
            alone[name] = sources[name]._replace(features=part[:, : self.widths[name]])
        experts = self.experts(alone)
        told = None if self.trees is None else self.trees(sources)
        candidates = self.experts.candidates(logits, experts, told)
        trained = {"joint": logits, **experts}
        answer = self.experts.answer(candidates)
        return Output(answer, pooled, matched, trained, candidates)


class TreesHead(Head):
    """Boosted trees on the features of the encoders and the columns, as a head of their own.

    It trains only a bias ``(C,)``; in training its logits are no more than that.

    Args:
        widths: d_v and d_t.
        num_classes: number of classes C.
        config: parts of the head, of which it has the boundary features and the columns.
    """

    experts = choice = None

    def __init__(self, widths: Pair[int], num_classes: int, config: HeadConfig) -> None:
        image, text = (EncoderFeatures(width, config.boundary) for width in widths)
        super().__init__(image, text, config.columns)
        self.num_features = sum(self.widths.values())
        self.trees = BoostedTrees(self.widths, num_classes)
        self.bias = nn.Parameter(torch.zeros(num_classes))

    @property
    def never_missing(self) -> list[str]:
        """None: a missing modality has the components of the mean."""
        return []

    @torch.no_grad()
    def start_at(self, prior: Tensor) -> None:
        """Let the bias be ``prior (C,)``."""
        self.bias.copy_(prior)

    def forward(
        self,
        pooled: Pair[Pooled],
        prompts: None,
        present: Presence,
        part_features: None = None,
        cells: Tensor | None = None,
    ) -> Output:
        """The output for pooled features and cells."""
        return Output(self.bias + self.trees(self.sources(pooled, present, cells)), pooled)


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


class GEGLU(nn.Module):
    """``a * GELU(b)`` of ``[a; b]`` (*GLU Variants Improve Transformer*, arXiv 2002.05202).

    Whether "left of" is true depends on a product of text features and locations. A gated layer
    can express it; a layer without a gate has to approximate it.
    """

    def forward(self, halves: Tensor) -> Tensor:
        """Outputs ``(..., D)`` of inputs ``(..., 2 D)``."""
        value, gate = halves.chunk(2, dim=-1)
        return value * F.gelu(gate)


class NetworkHead(nn.Module):
    """``Linear(Dropout(GEGLU(Linear([h_v; h_t; s; c]))))`` with features s of the parts.

    ``s`` comes from :func:`~epic_pl.nn.hub.where_parts_fit`. The parts have a fixed order, so s
    shows how two objects are placed. "squeezed" first projects each modality to 16 dimensions, so
    that the network depends mostly on ``s``. ``c`` are the features of a table's
    columns.

    Args:
        widths: D_v and D_t.
        num_part_features: length of s; 0 if the method has no parts.
        columns: length F of c.
        num_classes: number of classes C.
        network: "wide" or "squeezed".
    """

    def __init__(
        self,
        widths: Pair[int],
        num_part_features: int,
        columns: int,
        num_classes: int,
        network: Network,
    ) -> None:
        super().__init__()
        if network == "squeezed":
            self.squeeze_image, self.squeeze_text = (
                nn.Linear(width, _SQUEEZED) for width in widths
            )
            widths = Pair(_SQUEEZED, _SQUEEZED)
        self.squeezed = network == "squeezed"
        self.linear = None if self.squeezed else nn.Linear(sum(widths) + columns, num_classes)
        if self.linear is not None:
            nn.init.zeros_(self.linear.weight)
            nn.init.zeros_(self.linear.bias)
        self.standardize = Standardization(num_part_features) if num_part_features else None
        self.network = nn.Sequential(
            nn.Linear(sum(widths) + num_part_features + columns, 2 * _HIDDEN),
            GEGLU(),
            nn.Dropout(_HIDDEN_DROPOUT),
            nn.Linear(_HIDDEN, num_classes),
        )

    def forward(
        self,
        features: Pair[Tensor],
        part_features: Tensor | None,
        columns: Sequence[Tensor],
        present: Presence,
    ) -> Tensor:
        """Logits ``(B, C)`` from features ``(B, D_v)`` and ``(B, D_t)`` and part features ``s``.

        ``s (B, num_part_features)`` must be zero for unimodal samples. ``columns`` has c
        ``(B, F)``, or nothing.
        """
        seen = list(features)
        if self.squeezed:
            seen = [self.squeeze_image(features.image), self.squeeze_text(features.text)]
        if self.standardize is not None and part_features is not None:
            both = both_present(present)
            seen.append(where_present(self.standardize(part_features, both), both))
        logits: Tensor = self.network(torch.cat([*seen, *columns], dim=1))
        if self.linear is None:
            return logits
        added: Tensor = self.linear(torch.cat([*features, *columns], dim=1))
        return logits + added


class ModalityExperts(Choice):
    """A classifier of each source, and how their logits join those of all.

    A network that also sees the weaker modality overfits to it: on SNLI-VE it is less accurate than
    on the text alone. Each expert is a linear layer that is trained by a loss of its own, so it
    does not depend on the other sources. A table with columns has boosted trees, too. Where labels
    say whether image and text match, experts can only overfit, and a source may tell nothing: the
    answer is the candidate under which labels of validation rows are most likely.

    Args:
        widths: number of features D of each source by name.
        num_classes: number of classes C.
    """

    prior: Tensor

    def __init__(self, widths: Mapping[str, int], num_classes: int) -> None:
        super().__init__(12 if "columns" in widths else 2)
        for name, width in widths.items():
            self.add_module(name, nn.Linear(width, num_classes))
        self.register_buffer("prior", torch.zeros(num_classes))

    @property
    def experts(self) -> dict[str, nn.Linear]:
        """The expert of each source by name."""
        return {name: m for name, m in self.named_children() if isinstance(m, nn.Linear)}

    @torch.no_grad()
    def start_at(self, prior: Tensor) -> None:
        """Let all experts give the logits ``prior (C,)`` until they are trained."""
        self.prior.copy_(prior)
        for layer in self.experts.values():
            layer.weight.zero_()
            layer.bias.copy_(prior)

    @torch.no_grad()
    def move_to(self, prior: Tensor) -> None:
        """Change the prior to ``prior (C,)``; what the experts tell beyond the prior stays."""
        for layer in self.experts.values():
            layer.bias.add_(prior.to(self.prior) - self.prior)
        self.prior.copy_(prior)

    def forward(self, sources: Mapping[str, Source]) -> dict[str, Tensor]:
        """Logits ``(B, C)`` of each expert by name, the prior for a missing source."""
        made = {}
        for name, expert in self.experts.items():
            features, present = sources[name]
            logits = expert(features)
            missing = None if present is None else ~present[:, None]
            made[name] = logits if missing is None else torch.where(missing, self.prior, logits)
        return made

    def candidates(
        self, joint: Tensor, experts: Mapping[str, Tensor], told: Tensor | None = None
    ) -> Tensor:
        """Logits ``(B, k, C)`` of all that the answer may be; the first is the default.

        What logits tell beyond the prior is evidence, and evidence of sources that are independent
        given the class adds up: then ``p(c | image, text)`` is proportional to ``p(c | image)
        p(c | text) / p(c)``. Without columns k is 2: half of the evidence of all, and the joint
        logits. With the evidence ``told (B, C)`` of trees k is 12: these two, image and text alone,
        and the columns alone, each with half, all and nothing of it.
        """
        evidence = {name: logits - self.prior for name, logits in experts.items()}
        evidence["joint"] = joint - self.prior
        half: Tensor = sum(evidence.values(), start=torch.zeros_like(joint)) / 2
        bases = [half, evidence["joint"]]
        if told is not None:
            bases += [evidence["image"] + evidence["text"], evidence["columns"]]
            bases = [base + weight * told for base, weight in product(bases, (0.5, 1, 0))]
        return torch.stack([self.prior + base for base in bases], dim=1)
