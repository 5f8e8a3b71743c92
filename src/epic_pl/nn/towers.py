"""Towers: each has an encoder of one modality and makes the states that a method runs.

A tower has no trained parameters of its own. ``features`` are what a sample alone decides, which a
feature cache may store; ``restore`` makes the first :class:`State` from them, and ``extract`` does
both. The state runs the rest: ``acquire`` for the outputs of prompts, and ``pool`` at the end.
A pass takes a :class:`JointState` where prompts run with the tokens, because they change them or
because no gradient is needed, else a :class:`FrozenState`. docs/architecture.md has a drawing.

Shape legend: B batch, N tokens, n prompts, d width, h heads, K interaction layers.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, Self, cast

import torch
from torch import Tensor, nn

from epic_pl.nn.encoders.base import Encoder
from epic_pl.nn.encoders.memory import Memory
from epic_pl.nn.heads.inputs import Pooled
from epic_pl.utils.errors import ConfigError
from epic_pl.utils.types import Features

FeatureLevel = Literal["tokens", "layers"]

TOKENS, CELLS, MEMORY = "tokens", "cells", "memory"
OUTPUT, BOUNDARY = Pooled._fields
TOKEN_AXES: dict[str, int | None] = {TOKENS: 0, CELLS: 0, MEMORY: 3, OUTPUT: None, BOUNDARY: None}
"""The fields that are stored of an image or a text, and the axis of each that counts tokens.

Axes are those of one item, without the batch axis. ``tokens (N, d)`` enter the first interaction
layer. ``cells (M, d)`` are the same with merged patches: no later layer can be computed from them.
``memory (K, 2, h, M, d / h)`` are keys and values of the K interaction layers. ``output (d,)`` and
``boundary (d,)`` are :class:`~epic_pl.nn.heads.inputs.Pooled`.
"""


class State(Protocol):
    """What a modality is before a step: its tokens, and the layers that they still pass."""

    @property
    def mask(self) -> Tensor | None:
        """The mask ``(B, N)`` of visible tokens; None if all are visible."""

    def content_tokens(self) -> Tensor:
        """The words or patches ``(B, P, d)`` that enter the next layer."""

    def acquire(self, step: int, prompts: Tensor) -> tuple["State", Tensor]:
        """Run the step's layer on prompts ``P (B, n, d)``; returns a state and their outputs."""

    def memory(self, step: int) -> tuple[Memory, Tensor | None]:
        """Keys and values of the tokens in the step's layer, and their mask ``(B, N)``."""

    def pool(self) -> Pooled:
        """The modality's pooled output after the last step, and its boundary features."""


@dataclass(frozen=True)
class JointState:
    """Tokens ``(B, N, d)`` that enter the next layer; prompts run with them, and attend to them.

    Tokens attend to the prompts, too, unless these are ``hidden``. ``boundary (B, d)`` are the
    boundary features. After the last layer ``first (B, 1, d)`` is the pooled token, or None if all
    tokens are pooled.
    """

    tower: "Tower"
    tokens: Tensor
    mask: Tensor | None
    next_layer: int
    boundary: Tensor
    first: Tensor | None = None
    hidden: bool = False

    def autocast(self) -> AbstractContextManager[Any]:
        """Context manager of the prompts' precision, or of the encoder's, which pools tokens."""
        return self.tower.autocast(prompts=not self.hidden)

    def content_tokens(self) -> Tensor:
        """The words or patches among the tokens."""
        return self.tower.content_tokens(self.tokens)

    def before(self, layer: int) -> Tensor:
        """Tokens ``(B, N, d)`` that enter a later layer; those before it run without prompts."""
        return self.tower.encoder.run_layers(self.next_layer, layer, self.tokens, self.mask)

    def acquire(self, step: int, prompts: Tensor) -> tuple[Self, Tensor]:
        """Run up to the step's layer without prompts, then that layer with ``P (B, n, d)``."""
        encoder, layer = self.tower.encoder, self.tower.layers[step]
        last = layer == encoder.num_layers - 1
        # a text of two tokens would keep one, and an exported graph treats size 1 as a constant
        trims = self.tower.trims_last_layer and not torch.compiler.is_exporting()
        with self.autocast():
            tokens = self.before(layer)
            if trims and last and encoder.can_trim_last_layer(layer):
                outputs = encoder.run_last_layer(tokens, self.mask, prompts)  # (B, 1 + n, d)
                return replace(self, first=outputs[:, :1]), outputs[:, 1:]
            tokens, acquired = encoder.run_layer(layer, tokens, self.mask, prompts, self.hidden)
        return replace(self, tokens=tokens, next_layer=layer + 1), self.tower.cast(acquired)

    def memory(self, step: int) -> tuple[Memory, Tensor | None]:
        """Keys and values of the tokens in the step's layer, and their mask ``(B, N)``."""
        layer = self.tower.layers[step]
        with self.autocast():
            return self.tower.encoder.memory(layer, self.before(layer)), self.mask

    def pool(self) -> Pooled:
        """Run the remaining layers, then the encoder's own pooling."""
        encoder = self.tower.encoder
        with self.autocast():
            if self.first is None:
                output = encoder.pooled(self.before(encoder.num_layers), self.mask)
            else:
                output = encoder.pooled(self.first)
        return Pooled(self.tower.cast(output), self.boundary)


@dataclass(frozen=True)
class FrozenState:
    """Pooled features, and what else the method reads of an encoder that has run as a whole.

    ``tokens (B, M, d)``, or a list of B memory-mapped tensors, enter the first layer; None if the
    method does not need them. ``memories`` are keys and values of the K layers, or empty, and
    ``mask (B, N)`` marks their visible tokens. Patches are merged in both.
    """

    tower: "Tower"
    pooled: Pooled
    mask: Tensor | None
    tokens: Tensor | list[Tensor] | None
    memories: list[Memory]

    def content_tokens(self) -> Tensor:
        """The words or patches among the tokens."""
        assert self.tokens is not None, "the tower needs keeps_tokens"
        return self.tower.content_tokens(self.tokens)

    def acquire(self, step: int, prompts: Tensor) -> tuple[Self, Tensor]:
        """Run the prompts ``P (B, n, d)`` by themselves; they read the layer's keys and values."""
        encoder, layer = self.tower.encoder, self.tower.layers[step]
        arguments = layer, prompts, self.memories[step], self.mask
        with self.tower.autocast(prompts=True):
            return self, encoder.checkpointed(encoder.run_stream, *arguments)

    def memory(self, step: int) -> tuple[Memory, Tensor | None]:
        """Keys and values of the tokens in the step's layer, and their mask ``(B, N)``."""
        return self.memories[step], self.mask

    def pool(self) -> Pooled:
        """The frozen encoder's pooled features."""
        return self.pooled


class Tower(nn.Module, ABC):
    """An encoder and the layers at which a method intervenes.

    Args:
        encoder: the encoder, frozen unless a method thaws it.
        layers: the interaction layers, increasing, counted from 0. Layers before the first one
            depend on the sample alone; the boundary features are the mean of the tokens that enter
            the first one.
        keeps_tokens: whether the first state must have the tokens that enter the first one.
    """

    levels: tuple[FeatureLevel, ...] = ("tokens",)
    """Levels that a feature cache can store of this tower, the fastest last."""
    not_stored_because = (
        "Prompts change the tokens in every interaction layer, unless they are read_only."
    )
    """Why other levels cannot be stored, as a sentence."""
    trains_encoder = False
    """Whether the encoder's layers run with gradient, and in the precision of what is trained."""
    takes_prompts = False
    """Whether prompts enter the encoder's layers."""
    shares_states = False
    """Whether several models continue from each state."""
    trims_last_layer = False
    """Whether the last layer computes only the outputs in use, if prompts change its tokens."""

    def __init__(self, encoder: Encoder, layers: Sequence[int], keeps_tokens: bool = False) -> None:
        super().__init__()
        if self.takes_prompts:
            encoder.require_layers()
        if self.trains_encoder and encoder.held:
            raise ConfigError(
                "encoders.precision bf16-true is for frozen encoders, but this method trains them: "
                "set it to auto or bf16, or take another method."
            )
        self.encoder = encoder
        self.layers = list(layers)
        self.keeps_tokens = keeps_tokens

    def extract(self, inputs: Tensor, mask: Tensor | None) -> State:
        """Run the layers that depend on the sample alone, without gradient if they are frozen.

        Args:
            inputs: pixels ``(B, 3, H, W)`` or token ids ``(B, N)``.
            mask: ``(B, N)`` bool, False on padding; None without padding.
        """
        return self.restore({TOKENS: self.entering(inputs, mask)}, mask)

    def entering(self, inputs: Tensor, mask: Tensor | None, layer: int | None = None) -> Tensor:
        """Tokens ``(B, N, d)`` that enter the first layer of :attr:`layers`.

        With ``layer`` the inputs are tokens that enter this layer.
        """
        with self.gradients(), self.autocast():
            tokens = self.cast(self.encoder.embed(inputs, mask)) if layer is None else inputs
            tokens = self.encoder.run_layers(layer or 0, self.layers[0], tokens, mask)
        return self.cast(tokens)

    def features(
        self, inputs: Tensor, mask: Tensor | None, level: FeatureLevel, layer: int | None = None
    ) -> dict[str, Tensor]:
        """The features that a cache of ``level`` stores, with the batch axis first.

        Arguments are those of :meth:`entering`.

        Raises:
            ConfigError: if the method needs more than this level stores.
        """
        if level not in self.levels:
            able = f"{' or '.join(self.levels)} (or off)" if self.levels else "off"
            raise ConfigError(
                f"cache.level {level!r} stores less than this method needs. "
                f"{self.not_stored_because} Set cache.level to {able}."
            )
        return {TOKENS: self.entering(inputs, mask, layer)}

    @abstractmethod
    def restore(self, features: Features, mask: Tensor | None) -> State:
        """The state before step 1, from the output of :meth:`features` of any level."""

    def content_tokens(self, tokens: Tensor | list[Tensor]) -> Tensor:
        """The words or patches among the tokens ``(B, N, d)``, in the weights' precision."""
        first = self.encoder.num_prefix_tokens
        if isinstance(tokens, list):
            return torch.stack([sample[first:] for sample in tokens]).to(self.dtype)
        return tokens[:, first:].to(self.dtype)

    def gradients(self) -> AbstractContextManager[Any]:
        """Context manager that switches gradients off, unless the encoder is trained."""
        return torch.set_grad_enabled(self.trains_encoder and torch.is_grad_enabled())

    def autocast(self, prompts: bool = False) -> AbstractContextManager[Any]:
        """Context manager that runs frozen layers in the encoder's precision.

        Layers with prompts run in the precision of the trained parameters, unless the weights are
        held in another.
        """
        held = self.encoder.held
        if self.encoder.precision is None or self.trains_encoder or (prompts and not held):
            return nullcontext()
        return torch.autocast(next(self.encoder.parameters()).device.type, self.encoder.precision)

    def cast(self, frozen: Tensor) -> Tensor:
        """Cast outputs of the frozen layers to the precision of the trained parameters."""
        return frozen if self.encoder.precision is None else frozen.to(self.dtype)

    @property
    def provenance(self) -> dict[str, Any]:
        """Plain values of the encoder that features depend on besides inputs and layers."""
        precision = str(self.encoder.precision or self.dtype).removeprefix("torch.")
        encoder = {"fingerprint": self.encoder.fingerprint, "pooling": self.encoder.pooling}
        return encoder | {"precision": precision}

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the frozen weights and of the tokens."""
        return self.encoder.dtype


class JointTower(Tower):
    """``[U; Z] = Layer([U; P])``: tokens and prompts attend to each other (the paper's setting)."""

    takes_prompts = True
    trims_last_layer = True

    def restore(self, features: Features, mask: Tensor | None) -> JointState:
        """The state before step 1, from the tokens that enter the first layer."""
        tokens = features[TOKENS].to(self.dtype)
        return JointState(self, tokens, mask, self.layers[0], self.encoder.mean(tokens, mask))


class FrozenTower(Tower):
    """A frozen encoder whose tokens depend on the sample alone, so all its outputs can be stored.

    It gives pooled features and the tokens that enter the first layer; subclasses add prompts.
    """

    levels: tuple[FeatureLevel, ...] = ("tokens", "layers")
    needs_memory = False
    """Whether the state has keys and values of :attr:`layers`."""

    def features(
        self, inputs: Tensor, mask: Tensor | None, level: FeatureLevel, layer: int | None = None
    ) -> dict[str, Tensor]:
        """The features of level "tokens" are ``tokens``, those of "layers" the other fields.

        Of these, ``memory`` and ``tokens`` (or ``cells``, if patches are merged) are stored where
        the method uses them.
        """
        stored = super().features(inputs, mask, level, layer)
        return stored if level == "tokens" else _run_encoder([self], stored[TOKENS], mask)[0]

    def restore(self, features: Features, mask: Tensor | None) -> FrozenState:
        """The state from stored features; only level "tokens" still runs frozen layers."""
        if OUTPUT not in features:
            with self.gradients():
                features = _run_encoder([self], features[TOKENS].to(self.dtype), mask)[0]
        pooled = Pooled(*(features[name].to(self.dtype) for name in Pooled._fields))
        tokens = features.get(CELLS, features.get(TOKENS))
        memories = []
        if self.needs_memory:
            memories = [_layer(features[MEMORY], k) for k in range(len(self.layers))]
        return FrozenState(self, pooled, mask, tokens, memories)


class ReadOnlyTower(FrozenTower):
    """Prompts ``P`` read the tokens ``U``: queries are from ``P``, keys and values from ``[U; P]``.

    The N tokens attend only to each other, so no gradient passes through them: prompts run through
    a layer by themselves and read its keys and values. An answer needs no gradient. There prompts
    are further rows of the tokens' products, since a product of two rows with a whole matrix takes
    almost as long as that of the tokens.
    """

    needs_memory = True
    takes_prompts = True

    def extract(self, inputs: Tensor, mask: Tensor | None) -> State:
        """The state before step 1; without gradients no interaction layer has run.

        Arguments are those of :meth:`Tower.extract`.
        """
        tokens = self.entering(inputs, mask)
        # prompts that read merged patches, and those of several models, need a pass of their own
        apart = self.encoder.merge(tokens) is not tokens or self.shares_states
        if torch.is_grad_enabled() or apart or not self.encoder.hides_prompts:
            return self.restore({TOKENS: tokens}, mask)
        boundary = self.cast(self.encoder.mean(tokens, mask))
        return JointState(self, tokens, mask, self.layers[0], boundary, hidden=True)


class TrainedTower(FrozenTower):
    """An encoder that runs as a whole, with gradient."""

    levels = ()
    not_stored_because = "It trains inside the encoders, so their outputs change with every step."
    trains_encoder = True


@torch.no_grad()
def shared_features(
    towers: Sequence[FrozenTower], inputs: Tensor, mask: Tensor | None
) -> list[dict[str, Tensor]]:
    """Features of level "layers" for several towers, whose common encoder runs once.

    Inputs are those of ``extract``. Towers that read the same features share a dictionary.
    """
    lowest = min(towers, key=lambda tower: tower.layers[0])
    keys = [(*tower.layers, tower.needs_memory, tower.keeps_tokens) for tower in towers]
    distinct = dict(zip(keys, towers, strict=True))
    made = _run_encoder(list(distinct.values()), lowest.entering(inputs, mask), mask)
    stored = dict(zip(distinct, made, strict=True))
    return [stored[key] for key in keys]


def _run_encoder(
    towers: Sequence[FrozenTower], tokens: Tensor, mask: Tensor | None
) -> list[dict[str, Tensor]]:
    """Run the towers' encoder on the tokens ``(B, N, d)`` that enter their lowest first layer.

    Returns, for each tower, the fields of :data:`TOKEN_AXES` that it reads.
    """
    encoder, cast_ = towers[0].encoder, towers[0].cast
    first = {tower.layers[0] for tower in towers}
    read = {layer for tower in towers if tower.needs_memory for layer in tower.layers}
    at = min(first)
    entering: dict[int, Tensor] = {}
    memories: dict[int, Memory] = {}
    with towers[0].autocast():
        for layer in sorted(first | read):
            tokens = encoder.run_layers(at, layer, tokens, mask)
            at = layer
            if layer in first:
                entering[layer] = tokens
            if layer in read:
                memories[layer] = encoder.memory(layer, encoder.merge(tokens))
        tokens = encoder.run_layers(at, encoder.num_layers, tokens, mask)
        output = cast_(encoder.pooled(tokens, mask))
        means = {layer: cast_(encoder.mean(part, mask)) for layer, part in entering.items()}
    made = []
    for tower in towers:
        fields = {OUTPUT: output, BOUNDARY: means[tower.layers[0]]}
        if tower.keeps_tokens:
            kept = encoder.merge(own := entering[tower.layers[0]])
            fields[TOKENS if kept is own else CELLS] = kept
        if tower.needs_memory:
            parts = torch.stack(
                [part for layer in tower.layers for part in cast(Any, memories[layer])]
            )
            parts = parts.view(-1, 2, *parts.shape[1:])  # (K, 2, B, h, N, d / h)
            fields[MEMORY] = parts.movedim(2, 0)
        made.append(fields)
    return made


def _layer(memory: Tensor | list[Tensor], k: int) -> Memory:
    """Interaction layer k of ``memory (B, K, 2, h, N, d / h)``, or of a list of B memories."""
    if isinstance(memory, Tensor):
        return Memory(memory[:, k, 0], memory[:, k, 1])
    return Memory([sample[k, 0] for sample in memory], [sample[k, 1] for sample in memory])
