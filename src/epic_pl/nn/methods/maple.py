"""MaPLe: coupled prompts from the first layer on, with a classification head.

Source: *MaPLe: Multi-modal Prompt Learning*, CVPR 2023, arXiv 2210.03117. As in the paper, each of
the first J layers has its own text prompts, image prompts are linear maps of them, and the last
ones stay in the sequence after layer J. Differences: the paper compares an image with class names
in CLIP's space; here each sample has its own text, so both pooled outputs go to a head, and any
two encoders work. Text prompts follow the tokens instead of the first token, and have Gaussian
initialisation instead of the words "a photo of a".

Shape legend: B batch, n prompts, d width, J prompted layers, C classes.
"""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn

from epic_pl.nn.base import DualEncoder, Method, layer_pairs
from epic_pl.nn.encoders.base import Encoder
from epic_pl.nn.heads import ClassificationHead, HeadConfig, Output, Pooled
from epic_pl.nn.pair import Pair
from epic_pl.nn.towers import JointState, JointTower, State
from epic_pl.utils.errors import ConfigError
from epic_pl.utils.types import Batch, Features
from epic_pl.utils.validate import check_positive

_INIT_STD = 0.02


@dataclass(frozen=True)
class DeepState(JointState):
    """A state whose boundary features are those of a later layer than the first."""

    tower: "DeepTower"

    def acquire(self, step: int, prompts: Tensor) -> tuple[Self, Tensor]:
        """Run the layer of the step with ``P (B, n, d)``."""
        state = self
        if step == self.tower.boundary_layer:
            state = replace(self, boundary=self.tower.encoder.mean(self.tokens, self.mask))
        return super(DeepState, state).acquire(step, prompts)


class DeepTower(JointTower):
    """A tower with prompts from the first layer to the last."""

    levels = ()
    not_stored_because = "Prompts enter the first layer, so every layer runs in every step."

    def __init__(self, encoder: Encoder, boundary: int) -> None:
        super().__init__(encoder, range(encoder.num_layers))
        self.boundary_layer = boundary

    def restore(self, features: Features, mask: Tensor | None) -> DeepState:
        """The state before the first layer."""
        return DeepState(**vars(super().restore(features, mask)))

    def run(self, state: State, prompts: Tensor, size: int) -> Pooled:
        """Run all layers with prompts ``(J, n, d)`` for B = ``size`` samples; returns features."""
        outputs = prompts[0]
        for layer in self.layers:
            # deep prompts replace the previous layer's outputs
            own = prompts[layer].expand(size, -1, -1) if layer < len(prompts) else outputs
            state, outputs = state.acquire(layer, own)
        return state.pool()


class CoupledPrompts(nn.Module):
    """Text prompts ``(J, n, d_t)`` and J linear maps from them to image prompts.

    Args:
        depth: number of layers J with their own prompts.
        num_prompts: number of prompts n.
        widths: d_v and d_t.
    """

    no_decay = ("text",)

    def __init__(self, depth: int, num_prompts: int, widths: Pair[int]) -> None:
        super().__init__()
        self.text = nn.Parameter(torch.randn(depth, num_prompts, widths.text) * _INIT_STD)
        self.couplings = nn.ModuleList(nn.Linear(widths.text, widths.image) for _ in range(depth))

    def forward(self) -> tuple[Tensor, Tensor]:
        """Image prompts ``(J, n, d_v)`` and text prompts ``(J, n, d_t)``."""
        coupled = [couple(text) for couple, text in zip(self.couplings, self.text, strict=True)]
        return torch.stack(coupled), self.text


class MaPLeModel(DualEncoder):
    """Frozen encoders with coupled deep prompts, and the classification head.

    Raises:
        ConfigError: if the encoders have too few layers.
    """

    image_tower: DeepTower
    text_tower: DeepTower

    def __init__(
        self, encoders: Pair[Encoder], num_classes: int, method: "MaPLe", head: HeadConfig
    ) -> None:
        boundary = Pair(*layer_pairs(method.interaction_layers, encoders)[0])
        super().__init__(
            DeepTower(encoders.image, boundary.image),
            DeepTower(encoders.text, boundary.text),
        )
        depth = method.depth(min(encoder.num_layers for encoder in encoders))
        self.prompts = CoupledPrompts(depth, method.num_prompts, self.widths)
        self.head = ClassificationHead(self.widths, num_classes, head)

    def forward(self, batch: Batch) -> Output:
        """The head's output for the pooled features."""
        present, size = self.presence(batch), batch["attention_mask"].shape[0]
        image, text = self.extract(batch, present)
        image_prompts, text_prompts = self.prompts()
        pooled = Pair(
            self.image_tower.run(image, image_prompts, size),
            self.text_tower.run(text, text_prompts, size),
        )
        return self.classify(batch, pooled, None, present)


@dataclass(frozen=True)
class MaPLe(Method):
    """Options of MaPLe.

    Attributes:
        interaction_layers: as in :class:`~epic_pl.nn.methods.no_prompts.NoPrompts`.
        num_prompts: n, prompts of each modality.
        prompt_depth: J, number of layers with their own prompts; None is 4, or the depth of the
            shallower encoder.

    Example:
        >>> MaPLe(prompt_depth=2).build(encoders, num_classes=3)(batch).logits.shape
        torch.Size([4, 3])
    """

    model = MaPLeModel

    interaction_layers: int | list[list[int]] = 2
    num_prompts: int = 4
    prompt_depth: int | None = None

    def __post_init__(self) -> None:
        check_positive(self, "num_prompts")

    def depth(self, num_layers: int) -> int:
        """The number of layers J with their own prompts, if the shallower encoder has num_layers.

        Raises:
            ConfigError: if J exceeds ``num_layers``.
        """
        if self.prompt_depth is None:
            return min(4, num_layers)
        if not 1 <= self.prompt_depth <= num_layers:
            raise ConfigError(
                f"prompt_depth is {self.prompt_depth}; choose 1 to {num_layers} layers."
            )
        return self.prompt_depth
