"""How one modality runs through its frozen encoder with prompts: jointly, or reading only.

A tower holds no parameters to train. A method asks it to ``extract`` what depends on the sample
alone and to ``pool`` at the end; EPIC, in between, to ``acquire`` the outputs of prompts. What
``extract`` does in two halves, ``boundary`` and ``start``, can be stored in between or, for prompts
that only read, behind both (``features`` and ``restore``).

Shape legend: B batch, N tokens, n prompts, d width, h heads, K steps.
"""

from abc import ABC, abstractmethod
from typing import Generic, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from epic_pl.errors import ConfigError
from epic_pl.nn.encoders.base import Encoder, Memory

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
        tokens = self.encoder.embed(inputs)
        return self.encoder.run_layers(0, self.layers[0], tokens, mask)

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

    def restore(
        self, features: dict[str, Tensor], mask: Tensor | None, present: Tensor | None
    ) -> State:
        """The state before step 1, from what :meth:`features` gave."""
        return self.start(features["tokens"].to(self.dtype), mask, present)

    @property
    def dtype(self) -> torch.dtype:
        """Of the frozen weights, and so of the tokens."""
        return next(self.encoder.parameters()).dtype

    @abstractmethod
    def pool(self, state: State) -> Tensor:
        """The modality's summary ``(B, d)`` after the last step."""


class PromptTower(Tower[State]):
    """A tower into which prompts enter at the K interaction layers."""

    @abstractmethod
    def acquire(self, step: int, state: State, prompts: Tensor) -> tuple[State, Tensor]:
        """Prompts ``P (B, n, d)`` through the layer of ``step``: their outputs ``Z (B, n, d)``."""


class JointState(NamedTuple):
    """Tokens ``(B, N, d)`` on their way, what may be seen of them, and the next layer."""

    tokens: Tensor
    mask: Tensor | None
    next_layer: int


class JointTower(PromptTower[JointState]):
    """``[U; Z] = Layer([U; P])``: tokens and prompts see each other (the paper's setting)."""

    def start(self, tokens: Tensor, mask: Tensor | None, present: Tensor | None) -> JointState:
        """The boundary's tokens are all that is needed."""
        return JointState(tokens, visible(mask, present, tokens.shape[1]), self.layers[0])

    def acquire(self, step: int, state: JointState, prompts: Tensor) -> tuple[JointState, Tensor]:
        """Run up to the step's layer without prompts, then that layer with them."""
        layer = self.layers[step]
        tokens = self.encoder.run_layers(state.next_layer, layer, state.tokens, state.mask)
        tokens, acquired = self.encoder.run_layer(layer, tokens, state.mask, prompts)
        return JointState(tokens, state.mask, layer + 1), acquired

    def pool(self, state: JointState) -> Tensor:
        """Run the layers that are left, then the encoder's own pooling."""
        tokens = self.encoder.run_layers(
            state.next_layer, self.encoder.num_layers, state.tokens, state.mask
        )
        return self.encoder.pool(tokens, state.mask)


class ReadOnlyState(NamedTuple):
    """What the stream reads at each of the K layers, and the stream's own summary.

    ``summary (B, 1, d)`` is the copy of the token that the encoder pools, None for an encoder that
    pools by the mean; ``pooled (B, d)`` is the frozen encoder's own output.
    """

    memories: list[Memory]
    mask: Tensor | None
    summary: Tensor | None
    pooled: Tensor


class ReadOnlyTower(PromptTower[ReadOnlyState]):
    """Prompts read the frozen tokens, which never see them.

    The small stream ``Q = [c; P]`` takes its queries from itself, its keys and values from
    ``[U; Q]``. The frozen stream is that of the encoder alone, whatever the task: no gradient runs
    through its N tokens, and its keys and values can be stored.
    """

    levels = ("boundary", "layers")

    @torch.no_grad()
    def start(self, tokens: Tensor, mask: Tensor | None, present: Tensor | None) -> ReadOnlyState:
        """Run the rest of the frozen encoder, keeping what the interaction layers can be asked."""
        encoder, layer = self.encoder, self.layers[0]
        memories, summary = [], encoder.summary(tokens, mask)
        for interaction_layer in self.layers:
            tokens = encoder.run_layers(layer, interaction_layer, tokens, mask)
            memories.append(encoder.memory(interaction_layer, tokens))
            layer = interaction_layer
        tokens = encoder.run_layers(layer, encoder.num_layers, tokens, mask)
        pooled = encoder.pool(tokens, mask)
        readable = _readable(mask, present, tokens.shape[1], summary)
        return ReadOnlyState(memories, readable, summary, pooled)

    def features(
        self, inputs: Tensor, mask: Tensor | None, level: FeatureLevel
    ) -> dict[str, Tensor]:
        """Of level "layers": keys and values, the frozen output, and a summary where there is one.

        ``memory (B, K, 2, h, N, d / h)``, ``pooled (B, d)``, ``summary (B, 1, d)``.
        """
        if level == "boundary":
            return super().features(inputs, mask, level)
        state = self.extract(inputs, mask, None)
        memory = torch.stack([torch.stack(each) for each in state.memories])  # (K, 2, B, h, N, _)
        features = {"memory": memory.movedim(2, 0), "pooled": state.pooled}
        return features if state.summary is None else features | {"summary": state.summary}

    def restore(
        self, features: dict[str, Tensor], mask: Tensor | None, present: Tensor | None
    ) -> ReadOnlyState:
        """Views on the stored keys and values; nothing of the frozen encoder is run."""
        if "memory" not in features:
            return super().restore(features, mask, present)
        memory = features["memory"]  # (B, K, 2, h, N, d / h)
        memories = [Memory(memory[:, k, 0], memory[:, k, 1]) for k in range(memory.shape[1])]
        summary = features.get("summary")
        return ReadOnlyState(
            memories,
            _readable(mask, present, memory.shape[4], summary),
            None if summary is None else summary.to(self.dtype),
            features["pooled"].to(self.dtype),
        )

    def acquire(
        self, step: int, state: ReadOnlyState, prompts: Tensor
    ) -> tuple[ReadOnlyState, Tensor]:
        """Run the stream through the step's layer."""
        stream = prompts if state.summary is None else torch.cat([state.summary, prompts], dim=1)
        stream = self.encoder.read_layer(
            self.layers[step], stream, state.memories[step], state.mask
        )
        if state.summary is None:
            return state, stream
        return state._replace(summary=stream[:, :1]), stream[:, 1:]

    def pool(self, state: ReadOnlyState) -> Tensor:
        """The stream's summary after the encoder's last norm, or the frozen mean."""
        return state.pooled if state.summary is None else self.encoder.pool_summary(state.summary)


def _readable(
    mask: Tensor | None, present: Tensor | None, num_tokens: int, summary: Tensor | None
) -> Tensor | None:
    """What prompts may read ``(B, N)``; ``(B, N + 1)`` with the summary, a token's copy, as well.

    Prompts of an absent modality would learn of its content through that copy.
    """
    seen = visible(mask, present, num_tokens)
    if seen is None or present is None or summary is None:
        return seen
    return torch.cat([seen, present[:, None]], dim=1)


def visible(mask: Tensor | None, present: Tensor | None, num_tokens: int) -> Tensor | None:
    """What prompts may see: ``(B, N)``, nothing of an absent modality; None where all may."""
    if present is None:
        return mask
    seen = present[:, None].expand(-1, num_tokens)
    return seen if mask is None else seen & mask
