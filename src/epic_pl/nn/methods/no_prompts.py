"""Methods without prompts: the classification head on frozen features, as controls of EPIC.

Shape legend: C classes.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

from epic_pl.nn.base import DualEncoder, Method, layer_pairs
from epic_pl.nn.encoders.base import Encoder
from epic_pl.nn.heads import ClassificationHead, HeadConfig, Output, TreesHead
from epic_pl.nn.pair import Pair
from epic_pl.nn.towers import FrozenTower
from epic_pl.utils.types import Batch


class NoPromptsModel(DualEncoder):
    """The head on frozen features; with a plain head it is a linear probe.

    Args:
        encoders: the image and text encoder.
        num_classes: number of classes C.
        method: options of the method.
        head: parts of the head.
    """

    tower: type[FrozenTower] = FrozenTower
    penalties: tuple[float, ...] = ()
    """Penalties of the linear layer, of which validation chooses one; none for other heads."""

    def __init__(
        self, encoders: Pair[Encoder], num_classes: int, method: "NoPrompts", head: HeadConfig
    ) -> None:
        boundary = Pair(*layer_pairs(method.interaction_layers, encoders)[0])
        super().__init__(
            self.tower(encoders.image, [boundary.image]),
            self.tower(encoders.text, [boundary.text]),
        )
        self.head = ClassificationHead(self.widths, num_classes, head, penalties=self.penalties)

    def forward(self, batch: Batch) -> Output:
        """The head's output for the pooled features."""
        present = self.presence(batch)
        image, text = self.extract(batch, present)
        return self.classify(batch, Pair(image.pool(), text.pool()), None, present)


class LinearProbeModel(NoPromptsModel):
    """Linear layers of several penalties on frozen features, of which validation chooses one."""

    penalties = (0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 1e-4)


class TreesModel(NoPromptsModel):
    """Boosted trees on frozen features and columns."""

    def __init__(
        self, encoders: Pair[Encoder], num_classes: int, method: "NoPrompts", head: HeadConfig
    ) -> None:
        super().__init__(encoders, num_classes, method, head)
        self.head = TreesHead(self.widths, num_classes, head)


@dataclass(frozen=True)
class NoPrompts(Method):
    """The classification head on frozen features.

    Attributes:
        interaction_layers: layers as in :class:`~epic_pl.nn.epic.EPIC`, of which the first pair
            alone is used: the boundary features are the mean of the tokens that enter it. It has
            EPIC's name, so that one config gives all methods the same tokens, also stored ones.

    Example:
        >>> NoPrompts().build(encoders, num_classes=3).cache_levels
        ('tokens', 'layers')
    """

    model: ClassVar[Callable[..., DualEncoder]] = NoPromptsModel
    space = "head.yaml"

    interaction_layers: int | list[list[int]] = 2


@dataclass(frozen=True)
class LinearProbe(NoPrompts):
    """Logistic regression on the features of :class:`NoPrompts`, with its option.

    Linear layers of several penalties are trained at once, and validation chooses one
    (:class:`~epic_pl.nn.heads.choice.PenaltySweep`).

    Example:
        >>> probe = LinearProbe().build(encoders, num_classes=3)
        >>> probe(batch).candidates.shape
        torch.Size([4, 7, 3])
    """

    model = LinearProbeModel

    def own(self, head: HeadConfig) -> HeadConfig:
        """A head of a linear layer, on undisturbed features."""
        return replace(head, similarity=False, network="none", dropout=0.0)


@dataclass(frozen=True)
class LateFusionMLP(NoPrompts):
    """A hidden layer on both pooled features; options as in :class:`NoPrompts`.

    Example:
        >>> LateFusionMLP().own(HeadConfig(network="none")).network
        'wide'
    """

    def own(self, head: HeadConfig) -> HeadConfig:
        """``head`` with the wide network."""
        return replace(head, network="wide")


@dataclass(frozen=True)
class Trees(NoPrompts):
    """Boosted trees on a table's columns and components of both pooled features, as a control.

    They are grown before the first step (``nn/heads/trees.py``), so one epoch is enough; only a
    bias is trained. Options are those of :class:`NoPrompts`. It needs a DataModule.

    Example:
        >>> Trees().build(encoders, num_classes=3)(batch).logits.shape
        torch.Size([4, 3])
    """

    model = TreesModel
