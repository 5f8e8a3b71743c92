"""How one modality's prompts read its frozen encoder, which never sees them.

Shape legend: B batch, N tokens, n prompts, d width, h heads, K steps.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from epic_pl.lazy_tensor import whole
from epic_pl.nn.encoders.base import Encoder
from epic_pl.nn.encoders.reading import Memory
from epic_pl.nn.towers import FeatureLevel, PromptTower, visible
from epic_pl.types import Features

ReadOnlySummary = Literal["frozen", "stream"]


class ReadOnlyState(NamedTuple):
    """What the stream reads at each of the K layers, and the stream's own summary.

    ``summary (B, 1, d)`` is the copy of the token that the encoder pools, None for an encoder that
    pools by the mean; ``pooled (B, d)`` is the frozen encoder's own output, and ``layer_means
    (B, K, d)`` are of the tokens that enter the K layers.
    """

    memories: list[Memory]
    mask: Tensor | None
    summary: Tensor | None
    pooled: Tensor
    layer_means: Tensor


class ReadOnlyTower(PromptTower[ReadOnlyState]):
    """Prompts read the frozen tokens, which never see them.

    The small stream ``Q = [c; P]`` takes its queries from itself, its keys and values from
    ``[U; Q]``. The frozen stream is that of the encoder alone, whatever the task: no gradient runs
    through its N tokens, and its keys and values can be stored.

    Args:
        encoder: the frozen encoder.
        layers: the K interaction layers, rising, counted from 0.
        pooled: "frozen": the modality's summary is what the encoder pools without prompts;
            "stream": it is ``c`` after the last step, which has read the tokens beside the prompts.
    """

    levels = ("boundary", "layers")

    def __init__(
        self, encoder: Encoder, layers: list[int], pooled: ReadOnlySummary = "frozen"
    ) -> None:
        super().__init__(encoder, layers)
        self.pooled: ReadOnlySummary = pooled

    @property
    def pools_prompts(self) -> bool:
        """Only the stream's summary has seen them, and a mean has none."""
        return self.pooled == "stream" and self.encoder.pooling != "mean"

    @torch.no_grad()
    def start(self, tokens: Tensor, mask: Tensor | None, present: Tensor | None) -> ReadOnlyState:
        """Run the rest of the frozen encoder, keeping what the interaction layers can be asked."""
        encoder, layer = self.encoder, self.layers[0]
        memories, means, summary = [], [], encoder.summary(tokens, mask)
        with self.lowered():
            for interaction_layer in self.layers:
                tokens = encoder.run_layers(layer, interaction_layer, tokens, mask)
                # stays as it is: whoever reads it converts it, as it does what was stored
                memories.append(encoder.memory(interaction_layer, tokens))
                means.append(encoder.mean(tokens, mask))
                layer = interaction_layer
            tokens = encoder.run_layers(layer, encoder.num_layers, tokens, mask)
            pooled = encoder.pool(tokens, mask)
        readable = _readable(mask, present, tokens.shape[1], summary)
        layer_means = self.raised(torch.stack(means, dim=1))
        return ReadOnlyState(memories, readable, summary, self.raised(pooled), layer_means)

    def features(
        self, inputs: Tensor, mask: Tensor | None, level: FeatureLevel
    ) -> dict[str, Tensor]:
        """Of level "layers": keys and values, frozen outputs, and a summary where there is one.

        ``memory (B, K, 2, h, N, d / h)``, ``pooled (B, d)``, ``layer_means (B, K, d)``,
        ``summary (B, 1, d)``.
        """
        if level == "boundary":
            return super().features(inputs, mask, level)
        state = self.extract(inputs, mask, None)
        memory = torch.stack(
            [torch.stack(list(map(whole, each))) for each in state.memories]
        )  # (K, 2, B, h, N, _)
        features = {
            "memory": memory.movedim(2, 0),
            "pooled": state.pooled,
            "layer_means": state.layer_means,
        }
        return features if state.summary is None else features | {"summary": state.summary}

    def restore(
        self, features: Features, mask: Tensor | None, present: Tensor | None
    ) -> ReadOnlyState:
        """Views on the stored keys and values; nothing of the frozen encoder is run."""
        if "memory" not in features:
            return super().restore(features, mask, present)
        memory = features["memory"]  # (B, K, 2, h, N, d / h)
        memories = [Memory(memory[:, k, 0], memory[:, k, 1]) for k in range(memory.shape[1])]
        summary = whole(features["summary"]).to(self.dtype) if "summary" in features else None
        return ReadOnlyState(
            memories,
            _readable(mask, present, memory.shape[4], summary),
            summary,
            whole(features["pooled"]).to(self.dtype),
            whole(features["layer_means"]).to(self.dtype),
        )

    def layer_means(self, state: ReadOnlyState) -> Tensor:
        """Of the frozen tokens."""
        return state.layer_means[:, : self.num_means]

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
        """The frozen encoder's output, or the stream's summary after the encoder's last norm."""
        if self.pooled == "stream" and state.summary is not None:
            return self.encoder.pool_summary(state.summary)
        return state.pooled


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
