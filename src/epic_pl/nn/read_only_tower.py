"""Read-only attention: prompts attend to the tokens of a frozen encoder, but not vice versa.

Shape legend: B batch, N tokens, n prompts, d width, h heads, K interaction layers.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from epic_pl.lazy_tensor import whole
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
        memory = torch.stack(
            [torch.stack(list(map(whole, layer))) for layer in state.memories]
        )  # (K, 2, B, h, N, _)
        tokens = {} if state.entered is None else {"tokens": state.entered}
        return {"memory": memory.movedim(2, 0), **tokens, **state.pooled._asdict()}

    def restore(
        self, features: Features, mask: Tensor | None, present: Tensor | None
    ) -> ReadOnlyState:
        """Views on the stored keys and values; no frozen layer is run."""
        if "memory" not in features:
            return super().restore(features, mask, present)
        memory = features["memory"]  # (B, K, 2, h, N, d / h)
        memories = [Memory(memory[:, k, 0], memory[:, k, 1]) for k in range(memory.shape[1])]
        pooled = restore_pooled(features, self.dtype)
        entered = None
        if self.keeps_tokens:
            entered = self.kept(whole(features["tokens"]).to(self.dtype), present)
        return ReadOnlyState(memories, visible(mask, present, memory.shape[4]), pooled, entered)

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
