"""Control of EPIC: prompts read by attention alone, without the two wide products of a layer."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

from timm.models.vision_transformer import Block
from torch import Tensor, nn

from epic_pl.nn.encoders.base import Encoder
from epic_pl.nn.epic import EPIC, EPICModel
from epic_pl.nn.heads import HeadConfig
from epic_pl.nn.pair import Pair
from epic_pl.nn.towers import FrozenState, ReadOnlyTower


class _Nothing(nn.Module):
    """In place of a block's MLP, whose output is added to the stream."""

    def forward(self, stream: Tensor) -> Tensor:
        return stream.new_zeros(())


class _AsItWas(nn.Module):
    """In place of the last part of a BERT layer, which adds, and normalises, its MLP's output."""

    def forward(self, output: Tensor, stream: Tensor) -> Tensor:
        return stream


@contextmanager
def without_mlp(layer: Any) -> Iterator[None]:
    """A block of timm, or a layer of BERT, without its MLP."""
    if isinstance(layer, Block):
        replaced: dict[str, nn.Module] = {"mlp": _Nothing(), "norm2": nn.Identity()}
    else:
        replaced = {"intermediate": nn.Identity(), "output": _AsItWas()}
    whole = {name: getattr(layer, name) for name in replaced}
    for name, part in replaced.items():
        setattr(layer, name, part)
    try:
        yield
    finally:
        for name, part in whole.items():
            setattr(layer, name, part)


class AttentionState(FrozenState):
    """A state whose prompts read the tokens by attention alone."""

    def acquire(self, step: int, prompts: Tensor) -> tuple[Self, Tensor]:
        """Run the prompts ``P (B, n, d)`` through the attention of the step's layer."""
        encoder: Any = self.tower.encoder
        layers = encoder.model.blocks if encoder.images else encoder.model.encoder.layer
        with without_mlp(layers[self.tower.layers[step]]):
            return super().acquire(step, prompts)


class AttentionTower(ReadOnlyTower):
    """Tokens pass through whole layers, prompts through the attention alone."""

    def restore(self, *stored: Any) -> "AttentionState":
        """The state before step 1."""
        return AttentionState(**vars(super().restore(*stored)))


class AttentionEPICModel(EPICModel):
    """EPIC whose prompts read by attention alone."""

    def __init__(
        self,
        encoders: Pair[Encoder],
        num_classes: int,
        method: "AttentionEPIC",
        head: HeadConfig,
    ) -> None:
        super().__init__(encoders, num_classes, method, head)
        self.image_tower, self.text_tower = (
            AttentionTower(tower.encoder, tower.layers, tower.keeps_tokens) for tower in self.towers
        )


@dataclass(frozen=True)
class AttentionEPIC(EPIC):
    """Options as in :class:`~epic_pl.nn.epic.EPIC`."""

    model = AttentionEPICModel
