"""How one modality runs through its frozen encoder, and jointly with prompts.

A tower holds no parameters to train. A method asks it to ``extract`` what depends on the sample
alone and to ``pool`` at the end; EPIC, in between, to ``acquire`` the outputs of prompts. What
``extract`` does in two halves, ``boundary`` and ``start``, can be stored in between or, for prompts
that only read, behind both (``features`` and ``restore``).

Shape legend: B batch, N tokens, n prompts, d width, K steps.
"""

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from epic_pl.errors import ConfigError
from epic_pl.lazy_tensor import whole
from epic_pl.nn.encoders.base import Encoder
from epic_pl.types import Features

State = TypeVar("State")
FeatureLevel = Literal["boundary", "layers"]


class Tower(nn.Module, ABC, Generic[State]):
    """A frozen encoder and the layers at which prompts enter it.

    Args:
        encoder: the frozen encoder.
        layers: the K interaction layers, rising, counted from 0.
    """

    levels: tuple[FeatureLevel, ...] = ("boundary",)
    """What a feature cache can store of this tower, the least work a step last."""
    needs = "prompts change the tokens in every interaction layer (unless they are read_only)"
    precision: torch.dtype | None = None
    """In which what is frozen is run; None is that of all else."""

    def __init__(self, encoder: Encoder, layers: list[int]) -> None:
        super().__init__()
        self.encoder = encoder
        self.layers = layers

    def extract(self, inputs: Tensor, mask: Tensor | None, present: Tensor | None) -> State:
        """Run what is frozen and depends on the sample alone, without gradient.

        Args:
            inputs: pictures ``(B, 3, H, W)`` or token ids ``(B, N)``.
            mask: ``(B, N)`` bool, False on padding; None where there is none.
            present: ``(B,)`` bool, False where the modality is absent: prompts see nothing of it.
        """
        return self.start(self.boundary(inputs, mask), mask, present)

    @torch.no_grad()
    def boundary(self, inputs: Tensor, mask: Tensor | None) -> Tensor:
        """Tokens ``(B, N, d)`` that enter the first interaction layer."""
        with self.lowered():
            tokens = self.encoder.embed(inputs)
            tokens = self.encoder.run_layers(0, self.layers[0], tokens, mask)
        return self.raised(tokens)

    @abstractmethod
    def start(self, tokens: Tensor, mask: Tensor | None, present: Tensor | None) -> State:
        """The state before step 1, from the boundary's tokens."""

    def features(
        self, inputs: Tensor, mask: Tensor | None, level: FeatureLevel
    ) -> dict[str, Tensor]:
        """What a cache of ``level`` stores of each sample, batch first."""
        if level not in self.levels:
            able = " or ".join(self.levels)
            raise ConfigError(
                f"cache.level {level!r} stores less than this method needs: {self.needs}. Set "
                f"cache.level to {f'{able} (or off)' if able else 'off'}."
            )
        return {"tokens": self.boundary(inputs, mask)}

    def restore(self, features: Features, mask: Tensor | None, present: Tensor | None) -> State:
        """The state before step 1, from what :meth:`features` gave."""
        return self.start(whole(features["tokens"]).to(self.dtype), mask, present)

    def lowered(self) -> AbstractContextManager[Any]:
        """Within it, :attr:`precision` holds."""
        if self.precision is None:
            return nullcontext()
        return torch.autocast(next(self.encoder.parameters()).device.type, self.precision)

    def raised(self, frozen: Tensor) -> Tensor:
        """What was run in :attr:`precision`, as the trained part wants it."""
        return frozen if self.precision is None else frozen.to(self.dtype)

    @property
    def dtype(self) -> torch.dtype:
        """Of the frozen weights, and so of the tokens."""
        return next(self.encoder.parameters()).dtype

    @abstractmethod
    def pool(self, state: State) -> Tensor:
        """The modality's summary ``(B, d)`` after the last step."""


class PromptTower(Tower[State]):
    """A tower into which prompts enter at the K interaction layers."""

    num_means = 0
    """Of how many layers, the first ones, :meth:`layer_means` is asked."""

    @property
    def pools_prompts(self) -> bool:
        """Whether what :meth:`pool` gives depends on the prompts."""
        return True

    @abstractmethod
    def layer_means(self, state: State) -> Tensor:
        """Means ``(B, num_means, d)`` of the tokens that entered layers, after the last step."""

    @abstractmethod
    def acquire(self, step: int, state: State, prompts: Tensor) -> tuple[State, Tensor]:
        """Prompts ``P (B, n, d)`` through the layer of ``step``: their outputs ``Z (B, n, d)``."""


class JointState(NamedTuple):
    """Tokens ``(B, N, d)`` on their way, what may be seen of them, and the next layer.

    ``layer_means``, ``(B, d)`` each, are of the tokens that entered the layers of steps so far.
    After the last layer ``summary (B, 1, d)`` is the one token that is pooled, None where pooling
    takes them all.
    """

    tokens: Tensor
    mask: Tensor | None
    next_layer: int
    layer_means: tuple[Tensor, ...] = ()
    summary: Tensor | None = None


class JointTower(PromptTower[JointState]):
    """``[U; Z] = Layer([U; P])``: tokens and prompts see each other (the paper's setting)."""

    trims_last_layer = True
    """Whether of the encoder's last layer no more is worked out than is used."""

    def start(self, tokens: Tensor, mask: Tensor | None, present: Tensor | None) -> JointState:
        """The boundary's tokens are all that is needed."""
        seen = visible(mask, present, tokens.shape[1])
        return JointState(tokens, seen, self.layers[0])

    def layer_means(self, state: JointState) -> Tensor:
        """The first is of frozen tokens, the others' have seen prompts; zeros of the absent."""
        return torch.stack(state.layer_means, dim=1)

    def acquire(self, step: int, state: JointState, prompts: Tensor) -> tuple[JointState, Tensor]:
        """Run up to the step's layer without prompts, then that layer with them."""
        layer = self.layers[step]
        tokens = self.encoder.run_layers(state.next_layer, layer, state.tokens, state.mask)
        if step < self.num_means:
            means = (*state.layer_means, self.encoder.mean(tokens, state.mask))
            state = state._replace(layer_means=means)
        state = state._replace(next_layer=layer + 1)
        last = layer == self.encoder.num_layers - 1
        if self.trims_last_layer and last and self.encoder.ends_in_first(layer):
            outputs = self.encoder.run_last_layer(tokens, state.mask, prompts)  # (B, 1 + n, d)
            return state._replace(tokens=tokens, summary=outputs[:, :1]), outputs[:, 1:]
        tokens, acquired = self.encoder.run_layer(layer, tokens, state.mask, prompts)
        return state._replace(tokens=tokens), acquired

    def pool(self, state: JointState) -> Tensor:
        """Run the layers that are left, then the encoder's own pooling."""
        if state.summary is not None:
            return self.encoder.pool_summary(state.summary)
        tokens = self.encoder.run_layers(
            state.next_layer, self.encoder.num_layers, state.tokens, state.mask
        )
        return self.encoder.pool(tokens, state.mask)


def visible(mask: Tensor | None, present: Tensor | None, num_tokens: int) -> Tensor | None:
    """What prompts may see: ``(B, N)``, nothing of an absent modality; None where all may."""
    if present is None:
        return mask
    seen = present[:, None].expand(-1, num_tokens)
    return seen if mask is None else seen & mask
