"""The two base classes of a method: its options, which build a model, and its model.

Shape legend: B batch, N tokens, P patches, n prompts, K steps, C classes.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from epic_pl.nn.encoders.base import Encoder
from epic_pl.nn.heads import ClassificationHead, HeadConfig, Output, Pooled, TreesHead
from epic_pl.nn.heads.choice import Choice
from epic_pl.nn.hub import Matched
from epic_pl.nn.pair import Pair, Presence, drop_sources, where_present
from epic_pl.nn.recording import Recording
from epic_pl.nn.towers import FeatureLevel, State, Tower
from epic_pl.utils.errors import ConfigError
from epic_pl.utils.types import Batch, Features, Task


class Method:
    """The options of a method; :meth:`build` makes its model. A subclass is a frozen dataclass.

    A config names a method of this package or of an installed plug-in by its class name, any other
    by its import path; docs/extend.md has an example.

    Attributes:
        model: class of the model, which takes encoders, number of classes, method and head.
        space: what ``epic-pl tune`` and ``compare --tune`` search: the name of a packaged space, or
            a path.

    Example:
        >>> from dataclasses import dataclass
        >>> from epic_pl.nn.methods.no_prompts import NoPromptsModel
        >>> @dataclass(frozen=True)
        ... class Probe(Method):
        ...     model = NoPromptsModel
        ...     interaction_layers: int = 1
        >>> Probe().build(encoders, num_classes=3)(batch).logits.shape
        torch.Size([4, 3])
    """

    model: ClassVar[Callable[..., "DualEncoder"]]
    space: ClassVar[str] = "prompts.yaml"

    def build(
        self,
        encoders: Pair[Encoder],
        num_classes: int,
        head: HeadConfig = HeadConfig(),  # noqa: B008 frozen
        modality_dropout: float = 0.0,
        task: Task = "multiclass",
    ) -> "DualEncoder":
        """Build the untrained model.

        Args:
            encoders: frozen encoders; a method that trains them thaws them.
            num_classes: number of classes C.
            head: parts of the head, the same for every method.
            modality_dropout: probability with which a training sample loses one modality.
            task: "multiclass" or "multilabel", by which an ensemble averages its members.

        Raises:
            ConfigError: if the options do not fit the encoders, or the class has no ``model``.
        """
        kind = type(self)
        if not isinstance(model := getattr(kind, "model", None), type):
            raise ConfigError(
                f"{kind.__module__}.{kind.__name__} has no attribute `model`: set it to the class "
                "of the method's model, a subclass of epic_pl.nn.DualEncoder."
            )
        built: DualEncoder = model(encoders, num_classes, self, self.own(head))
        built.task = task
        for stack in built.stacks:  # each member of an ensemble drops modalities by itself
            stack.modality_dropout = modality_dropout
        return built

    def own(self, head: HeadConfig) -> HeadConfig:
        """``head`` with the options that the method fixes replaced."""
        return head


def layer_pairs(
    layers: int | Sequence[Sequence[int]], encoders: Pair[Encoder]
) -> list[tuple[int, int]]:
    """The pairs (image layer, text layer) of the K interaction steps.

    The tokens that enter the first pair are the boundary features, which a feature cache stores.

    Args:
        layers: K for the last K layers of each encoder, or pairs of layers counted from 0.
        encoders: both encoders.

    Raises:
        ConfigError: if an encoder has too few layers, or the pairs do not increase.
    """
    depths = [encoder.num_layers for encoder in encoders]
    if isinstance(layers, int):
        pairs = [[depth - layers + step for depth in depths] for step in range(layers)]
    else:
        pairs = [list(pair) for pair in layers]
    if {len(pair) for pair in pairs} != {2} or not all(
        column[0] >= 0 and list(column) == sorted(set(column)) and column[-1] < depth
        for column, depth in zip(zip(*pairs, strict=True), depths, strict=True)
    ):
        raise ConfigError(
            f"interaction_layers is {layers}, but the encoders have {depths[0]} and {depths[1]} "
            f"layers: give a number from 1 to {min(depths)}, or pairs [image layer, text layer] of "
            "layers counted from 0, in which both numbers rise."
        )
    return [(image, text) for image, text in pairs]


class DualEncoder(nn.Module, ABC):
    """A model of images and texts on two encoders; each method has a subclass with a ``forward``.

    Parameters under the name ``head`` are trained at the head's learning rate, encoders at
    :attr:`encoder_lr`, and all others at the prompts' rate.

    Args:
        image_tower: tower of the image encoder, which defines how the method runs it.
        text_tower: tower of the text encoder.
    """

    head: ClassificationHead | TreesHead
    encoder_lr: float | None = None
    """Learning rate of the parameters inside the encoders; None if these are frozen."""
    modality_dropout = 0.0
    """Probability with which a training sample loses one modality."""
    task: Task = "multiclass"
    """Which probabilities the logits stand for."""
    stacked = False
    """Whether the first axis of every parameter and buffer counts the members of an ensemble."""

    def __init__(self, image_tower: Tower, text_tower: Tower) -> None:
        super().__init__()
        self.image_tower = image_tower
        self.text_tower = text_tower

    @abstractmethod
    def forward(self, batch: Batch) -> Output:
        """The logits of a batch, and the features for the matching loss and for embeddings."""

    def record(self, batch: Batch) -> Recording:
        """The prompts' attention in a batch; a method with prompts overrides this.

        Raises:
            ConfigError: if the method does not override it.
        """
        raise ConfigError(
            f"{type(self).__name__} has no attention to draw: its class defines no `record`. "
            "Explanations need a method with prompts, such as --model.method=EPIC."
        )

    @property
    def stacks(self) -> Sequence["DualEncoder"]:
        """The models whose parameters are trained: this one, or the stacks of an ensemble."""
        return (self,)

    @property
    def choices(self) -> list[Choice]:
        """What validation chooses in each head that has several candidates for the answer."""
        return [stack.head.choice for stack in self.stacks if stack.head.choice is not None]

    def choose(self, candidates: Tensor, labels: Tensor) -> Tensor:
        """Let validation choose among ``candidates (N, k, C)``; returns the answer ``(N, C)``."""
        (choice,) = self.choices
        return choice.choose(candidates, labels, self.task)

    @property
    def towers(self) -> Pair[Tower]:
        """The image and the text tower."""
        return Pair(self.image_tower, self.text_tower)

    @property
    def image_encoder(self) -> Encoder:
        """The image encoder."""
        return self.image_tower.encoder

    @property
    def text_encoder(self) -> Encoder:
        """The text encoder."""
        return self.text_tower.encoder

    @property
    def widths(self) -> Pair[int]:
        """Widths d_v and d_t of the encoders."""
        return Pair(self.image_encoder.width, self.text_encoder.width)

    @property
    def cache_levels(self) -> tuple[FeatureLevel, ...]:
        """Levels of the feature cache that this method can train from, the fastest last."""
        return self.image_tower.levels

    def extract(self, batch: Batch, present: Presence) -> Pair[State]:
        """States of both towers before step 1, computed or restored from stored features.

        Inputs of a missing modality are replaced by zeros, since they may be NaN. What follows from
        them stays within the modality: hub and head use nothing of it.
        """
        if "states" in batch:
            return Pair(*batch["states"])
        mask = batch["attention_mask"].bool()  # (B, N)
        if "image_features" in batch:
            image_features = _only_present(batch["image_features"], present.image)
            image = self.image_tower.restore(image_features, None)
        else:
            pixels = where_present(batch["pixel_values"], present.image)
            image = self.image_tower.extract(pixels, None)
        if "text_features" in batch:
            text_features = _only_present(batch["text_features"], present.text)
            text = self.text_tower.restore(text_features, mask)
        else:
            text = self.text_tower.extract(batch["input_ids"], mask)
        return Pair(image, text)

    def presence(self, batch: Batch) -> Presence:
        """What samples have after modality dropout."""
        probability = self.modality_dropout if self.training else 0.0
        cells = batch.get("columns")
        columns = None if cells is None else (cells != 0).any(dim=1)
        if probability == 0 and "image_present" not in batch and "text_present" not in batch:
            return Presence(columns=columns)
        mask = batch["attention_mask"]
        complete = torch.ones(mask.shape[0], dtype=torch.bool, device=mask.device)
        image = batch.get("image_present", complete).bool()
        text = batch.get("text_present", complete).bool()
        if probability > 0:
            return drop_sources(image, text, columns, probability)
        return Presence(image, text, columns)

    def classify(
        self,
        batch: Batch,
        pooled: Pair[Pooled],
        prompts: Pair[Tensor] | None,
        present: Presence,
        part_features: Tensor | None = None,
        matched: Matched | None = None,
    ) -> Output:
        """The head's output; without ``matched``, its similarity term's vectors are matched."""
        output: Output = self.head(pooled, prompts, present, part_features, batch.get("columns"))
        return output._replace(matched=matched or output.matched)


def _only_present(features: Features, present: Tensor | None) -> Features:
    """Features with zeros where the modality is missing; lists stay, as stored ones are finite."""
    return {
        name: field if isinstance(field, list) else where_present(field, present)
        for name, field in features.items()
    }
