"""Towers: an encoder of one modality and the way in which a method runs it.

A tower has no trained parameters of its own. A method calls ``extract`` for the part that depends
on the sample alone and ``pool`` at the end; EPIC, in between, calls ``acquire`` for the outputs of
prompts. A feature cache stores the output of ``features``, from which ``restore`` continues.

Shape legend: B batch, N tokens, n prompts, d width, K interaction layers.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from epic_pl.errors import ConfigError
from epic_pl.nn.encoders.base import Encoder
from epic_pl.nn.encoders.reading import Memory
from epic_pl.nn.heads import Pooled
from epic_pl.nn.pair import where_present
from epic_pl.types import Features

State = TypeVar("State")
FeatureLevel = Literal["boundary", "layers"]


class Tower(nn.Module, ABC, Generic[State]):
    """An encoder and the layers at which a method intervenes.

    Args:
        encoder: the encoder, frozen unless a method thaws it.
        layers: increasing, counted from 0. Layers before the first one depend on the sample
            alone; the boundary features are the mean of the tokens that enter the first one.
    """

    levels: tuple[FeatureLevel, ...] = ("boundary",)
    """Levels that a feature cache can store of this tower, the fastest last."""
    needs = "prompts change the tokens in every interaction layer (unless they are read_only)"

    def __init__(self, encoder: Encoder, layers: Sequence[int]) -> None:
        super().__init__()
        self.encoder = encoder
        self.layers = list(layers)

    def extract(self, inputs: Tensor, mask: Tensor | None, present: Tensor | None) -> State:
        """Run the frozen layers that depend on the sample alone, without gradient.

        Args:
            inputs: pixels ``(B, 3, H, W)`` or token ids ``(B, N)``.
            mask: ``(B, N)`` bool, False on padding; None without padding.
            present: ``(B,)`` bool, False where the modality is missing: its tokens are masked.
        """
        return self.start(self.boundary(inputs, mask), mask, present)

    @torch.no_grad()
    def boundary(self, inputs: Tensor, mask: Tensor | None) -> Tensor:
        """Tokens ``(B, N, d)`` that enter the first layer of :attr:`layers`."""
        with self.autocast():
            tokens = self.encoder.embed(inputs)
            tokens = self.encoder.run_layers(0, self.layers[0], tokens, mask)
        return self.cast(tokens)

    @abstractmethod
    def start(self, tokens: Tensor, mask: Tensor | None, present: Tensor | None) -> State:
        """The state before step 1, from the boundary's tokens."""

    def features(
        self, inputs: Tensor, mask: Tensor | None, level: FeatureLevel
    ) -> dict[str, Tensor]:
        """The features that a cache of ``level`` stores, batch first.

        Raises:
            ConfigError: if the method depends on more than this level stores.
        """
        if level not in self.levels:
            able = " or ".join(self.levels)
            raise ConfigError(
                f"cache.level {level!r} stores less than this method needs: {self.needs}. Set "
                f"cache.level to {f'{able} (or off)' if able else 'off'}."
            )
        return {"tokens": self.boundary(inputs, mask)}

    def restore(self, features: Features, mask: Tensor | None, present: Tensor | None) -> State:
        """The state before step 1, from the output of :meth:`features`."""
        return self.start(features["tokens"].to(self.dtype), mask, present)

    def autocast(self) -> AbstractContextManager[Any]:
        """Context in which frozen layers run in the encoder's precision."""
        if self.encoder.precision is None:
            return nullcontext()
        return torch.autocast(next(self.encoder.parameters()).device.type, self.encoder.precision)

    def cast(self, frozen: Tensor) -> Tensor:
        """Outputs of the frozen layers in the precision of the trained part."""
        return frozen if self.encoder.precision is None else frozen.to(self.dtype)

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the frozen weights and of the tokens."""
        return next(self.encoder.parameters()).dtype

    @abstractmethod
    def pool(self, state: State) -> Pooled:
        """The modality's pooled output after the last step, and its boundary features."""


class PromptTower(Tower[State]):
    """A tower with prompts at the K interaction layers.

    Args:
        encoder: as for :class:`Tower`.
        layers: the interaction layers.
        keeps_tokens: whether first prompts start from the tokens that enter the first layer.
    """

    def __init__(self, encoder: Encoder, layers: Sequence[int], keeps_tokens: bool = False) -> None:
        super().__init__(encoder, layers)
        self.keeps_tokens = keeps_tokens

    def kept(self, tokens: Tensor, present: Tensor | None) -> Tensor | None:
        """Tokens ``(B, N, d)`` that first prompts start from, zero where missing, or None."""
        return where_present(tokens, present) if self.keeps_tokens else None

    @abstractmethod
    def acquire(self, step: int, state: State, prompts: Tensor) -> tuple[State, Tensor]:
        """Run prompts ``P (B, n, d)`` through the layer of ``step``; outputs ``Z (B, n, d)``."""

    @abstractmethod
    def memory(self, step: int, state: State) -> tuple[Memory, Tensor | None]:
        """Keys and values of the tokens in the layer of ``step``, and the mask ``(B, N)``."""


class JointState(NamedTuple):
    """Current tokens ``(B, N, d)``, the mask of visible ones, and the next layer.

    ``boundary (B, d)`` are the boundary features, ``entered (B, N, d)`` the tokens that first
    prompts start from. After the last layer ``first (B, 1, d)`` is the pooled token, or None if
    all tokens are pooled.
    """

    tokens: Tensor
    mask: Tensor | None
    next_layer: int
    boundary: Tensor
    entered: Tensor | None
    first: Tensor | None = None


class JointTower(PromptTower[JointState]):
    """``[U; Z] = Layer([U; P])``: tokens and prompts attend to each other (the paper's setting).

    Args:
        encoder: as for :class:`Tower`.
        layers: as for :class:`PromptTower`.
        keeps_tokens: as for :class:`PromptTower`.
        trims_last_layer: whether the encoder's last layer computes only the outputs in use.
    """

    def __init__(
        self,
        encoder: Encoder,
        layers: Sequence[int],
        keeps_tokens: bool = False,
        trims_last_layer: bool = True,
    ) -> None:
        super().__init__(encoder, layers, keeps_tokens)
        self.trims_last_layer = trims_last_layer

    def start(self, tokens: Tensor, mask: Tensor | None, present: Tensor | None) -> JointState:
        """The state with the boundary's tokens."""
        seen = visible(mask, present, tokens.shape[1])
        mean = self.encoder.mean(tokens, mask)
        return JointState(tokens, seen, self.layers[0], mean, self.kept(tokens, present))

    def acquire(self, step: int, state: JointState, prompts: Tensor) -> tuple[JointState, Tensor]:
        """Run up to the step's layer without prompts, then that layer with them."""
        layer = self.layers[step]
        tokens = self._entering(layer, state)
        state = state._replace(next_layer=layer + 1)
        last = layer == self.encoder.num_layers - 1
        # a text of two tokens would keep one, a size that an exported graph treats as constant
        trims = self.trims_last_layer and not torch.compiler.is_exporting()
        if trims and last and self.encoder.ends_in_first(layer):
            outputs = self.encoder.run_last_layer(tokens, state.mask, prompts)  # (B, 1 + n, d)
            return state._replace(tokens=tokens, first=outputs[:, :1]), outputs[:, 1:]
        tokens, acquired = self.encoder.run_layer(layer, tokens, state.mask, prompts)
        return state._replace(tokens=tokens), acquired

    def memory(self, step: int, state: JointState) -> tuple[Memory, Tensor | None]:
        """Keys and values of the tokens that enter the layer."""
        layer = self.layers[step]
        return self.encoder.memory(layer, self._entering(layer, state)), state.mask

    def _entering(self, layer: int, state: JointState) -> Tensor:
        """Tokens ``(B, N, d)`` after the layers without prompts."""
        return self.encoder.run_layers(state.next_layer, layer, state.tokens, state.mask)

    def pool(self, state: JointState) -> Pooled:
        """Run the remaining layers, then the encoder's own pooling."""
        if state.first is not None:
            return Pooled(self.encoder.pool(state.first), state.boundary)
        tokens = self.encoder.run_layers(
            state.next_layer, self.encoder.num_layers, state.tokens, state.mask
        )
        return Pooled(self.encoder.pool(tokens, state.mask), state.boundary)


class PooledTower(Tower[Pooled]):
    """A frozen encoder without prompts.

    Args:
        encoder: the frozen encoder.
        boundary: the layer whose entering tokens are the boundary features.
    """

    levels: tuple[FeatureLevel, ...] = ("layers",)
    needs = "no prompt enters a layer, so pooled features are all it uses"

    def __init__(self, encoder: Encoder, boundary: int) -> None:
        super().__init__(encoder, [boundary])

    @torch.no_grad()
    def start(self, tokens: Tensor, mask: Tensor | None, present: Tensor | None) -> Pooled:
        """Run the rest of the encoder."""
        return run_through(self, tokens, mask)

    def features(
        self, inputs: Tensor, mask: Tensor | None, level: FeatureLevel
    ) -> dict[str, Tensor]:
        """The fields ``output (B, d)`` and ``boundary (B, d)``."""
        if level not in self.levels:
            return super().features(inputs, mask, level)
        return self.extract(inputs, mask, None)._asdict()

    def restore(self, features: Features, mask: Tensor | None, present: Tensor | None) -> Pooled:
        """The stored features."""
        return restore_pooled(features, self.dtype)

    def pool(self, state: Pooled) -> Pooled:
        """The state itself."""
        return state


class TrainedTower(PooledTower):
    """A whole encoder with gradient."""

    levels: tuple[FeatureLevel, ...] = ()
    needs = "it trains inside the encoders, so their outputs change with every step"

    def boundary(self, inputs: Tensor, mask: Tensor | None) -> Tensor:
        """Tokens ``(B, N, d)`` that enter the boundary layer."""
        return self.encoder.run_layers(0, self.layers[0], self.encoder.embed(inputs), mask)

    def start(self, tokens: Tensor, mask: Tensor | None, present: Tensor | None) -> Pooled:
        """Run the rest of the encoder."""
        return run_through(self, tokens, mask)


def run_through(tower: Tower[Any], tokens: Tensor, mask: Tensor | None) -> Pooled:
    """Pooled features after running the rest of the encoder on the boundary's ``(B, N, d)``."""
    encoder = tower.encoder
    with tower.autocast():
        mean = encoder.mean(tokens, mask)
        tokens = encoder.run_layers(tower.layers[0], encoder.num_layers, tokens, mask)
        output = encoder.pool(tokens, mask)
    return Pooled(tower.cast(output), tower.cast(mean))


def restore_pooled(features: Features, dtype: torch.dtype) -> Pooled:
    """Both fields of :class:`Pooled`, as they were stored."""
    return Pooled(*(features[name].to(dtype) for name in Pooled._fields))


def visible(mask: Tensor | None, present: Tensor | None, num_tokens: int) -> Tensor | None:
    """Mask ``(B, N)`` of the tokens that prompts may attend to, none of a missing modality."""
    if present is None:
        return mask
    seen = present[:, None].expand(-1, num_tokens)
    return seen if mask is None else seen & mask
