"""Read-only attention: prompts attend to the tokens of a frozen encoder, but not vice versa.

Shape legend: B batch, N tokens, n prompts, d width, h heads, K interaction layers.
"""

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from epic_pl.nn.encoders.reading import Memory
from epic_pl.nn.heads import Pooled
from epic_pl.nn.towers import FeatureLevel, PromptTower, restore_pooled, visible
from epic_pl.types import Features


class ReadOnlyState(NamedTuple):
    """Keys and values of the K layers, the mask of visible tokens, and the pooled features.

    ``entered (B, N, d)`` are the tokens that first prompts start from.
    """

    memories: list[Memory]
    mask: Tensor | None
    pooled: Pooled
    entered: Tensor | None


class ReadOnlyTower(PromptTower[ReadOnlyState]):
    """Queries from the prompts ``P``, keys and values from ``[U; P]``.

    The token stream is that of the frozen encoder alone: no gradient passes through its N tokens,
    and its keys and values can be stored.
    """

    levels = ("boundary", "layers")

    @torch.no_grad()
    def start(self, tokens: Tensor, mask: Tensor | None, present: Tensor | None) -> ReadOnlyState:
        """Run the rest of the frozen encoder, keeping keys and values of interaction layers."""
        encoder, layer = self.encoder, self.layers[0]
        memories = []
        entered = self.kept(tokens, present)
        with self.autocast():
            mean = encoder.mean(tokens, mask)
            for interaction_layer in self.layers:
                tokens = encoder.run_layers(layer, interaction_layer, tokens, mask)
                memories.append(encoder.memory(interaction_layer, tokens))
                layer = interaction_layer
            tokens = encoder.run_layers(layer, encoder.num_layers, tokens, mask)
            output = encoder.pool(tokens, mask)
        pooled = Pooled(self.cast(output), self.cast(mean))
        return ReadOnlyState(memories, visible(mask, present, tokens.shape[1]), pooled, entered)

    def features(
        self, inputs: Tensor, mask: Tensor | None, level: FeatureLevel
    ) -> dict[str, Tensor]:
        """Keys and values, and pooled features; for level "boundary" tokens.

        ``memory (B, K, 2, h, N, d / h)``, ``output (B, d)``, ``boundary (B, d)``, and
        ``tokens (B, N, d)`` if first prompts start from them.
        """
        if level == "boundary":
            return super().features(inputs, mask, level)
        state = self.extract(inputs, mask, None)
        layers = cast(list[Any], state.memories)
        memory = torch.stack([torch.stack(layer) for layer in layers])  # (K, 2, B, h, N, d / h)
        tokens = {} if state.entered is None else {"tokens": state.entered}
        return {"memory": memory.movedim(2, 0), **tokens, **state.pooled._asdict()}

    def restore(
        self, features: Features, mask: Tensor | None, present: Tensor | None
    ) -> ReadOnlyState:
        """Views on the stored keys and values; no frozen layer is run."""
        if "memory" not in features:
            return super().restore(features, mask, present)
        memories = [_layer(features["memory"], k) for k in range(len(self.layers))]
        pooled = restore_pooled(features, self.dtype)
        entered = None
        if self.keeps_tokens:
            entered = self.kept(features["tokens"].to(self.dtype), present)
        seen = visible(mask, present, memories[0].length())
        return ReadOnlyState(memories, seen, pooled, entered)

    def acquire(
        self, step: int, state: ReadOnlyState, prompts: Tensor
    ) -> tuple[ReadOnlyState, Tensor]:
        """Run the prompts through the step's layer."""
        layer = self.layers[step]
        return state, self.encoder.read_layer(layer, prompts, state.memories[step], state.mask)

    def memory(self, step: int, state: ReadOnlyState) -> tuple[Memory, Tensor | None]:
        """Keys and values of the layer."""
        return state.memories[step], state.mask

    def pool(self, state: ReadOnlyState) -> Pooled:
        """The frozen encoder's pooled features."""
        return state.pooled


def _layer(memory: Tensor | list[Tensor], k: int) -> Memory:
    """Interaction layer k of ``memory (B, K, 2, h, N, d / h)``, or of a list of B samples' own."""
    if isinstance(memory, Tensor):
        return Memory(memory[:, k, 0], memory[:, k, 1])
    return Memory([sample[k, 0] for sample in memory], [sample[k, 1] for sample in memory])
