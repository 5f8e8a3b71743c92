"""An encoder family of your own: MPNet, whose attention has a bias for relative positions."""

from typing import Any, Self

import torch
from torch import Tensor
from transformers import MPNetModel

from epic_pl.nn.encoders import Encoder, Memory, attend, key_mask, masked_mean
from epic_pl.nn.encoders.base import Pooling


class MPNetEncoder(Encoder):
    """MPNet (Song et al., arXiv 2004.09297) of a local folder.

    Prompts that read have no position, hence no bias; joint ones are positions after the text.
    """

    model: Any

    @classmethod
    def from_name(
        cls,
        name: str,
        *,
        revision: str | None,
        pretrained: bool,
        pooling: Pooling,
        image_size: int | None = None,
        **running: Any,
    ) -> Self:
        """Build the frozen encoder of the folder ``name``."""
        model: Any = MPNetModel.from_pretrained(
            name, dtype=torch.float32, use_safetensors=True, add_pooling_layer=False
        )
        return cls(model, model.config.hidden_size, len(model.encoder.layer), pooling, **running)

    def example(self, rows: int, tokens: int, generator: torch.Generator) -> Tensor:
        """Random token ids ``(B, N)``; the first ids are special tokens."""
        return torch.randint(5, self.model.config.vocab_size, (rows, tokens), generator=generator)

    def configuration(self) -> dict[str, Any]:
        """What outputs depend on besides weights."""
        names = ("hidden_act", "layer_norm_eps", "num_attention_heads")
        return {name: getattr(self.model.config, name) for name in names}

    def embed(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Tokens ``(B, N, d)`` of token ids ``(B, N)``."""
        tokens: Tensor = self.model.embeddings(input_ids=inputs)
        return tokens

    def pool(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """The first token ``(B, d)``, or the mean of the visible ones."""
        return masked_mean(tokens, mask) if self.pooling == "mean" else tokens[:, 0]

    def _layer(self, index: int, tokens: Tensor, mask: Tensor | None, num_extra: int) -> Tensor:
        bias = self.model.encoder.compute_position_bias(tokens)  # (B, h, N, N)
        if mask is not None:
            bias = bias.masked_fill(~mask, torch.finfo(bias.dtype).min)
        outputs: Tensor = self.model.encoder.layer[index](tokens, position_bias=bias)[0]
        return outputs

    def memory(self, index: int, tokens: Tensor) -> Memory:
        """Keys and values of layer ``index`` for the tokens ``(B, N, d)`` that enter it."""
        attention = self.model.encoder.layer[index].attention.attn
        return Memory(self._heads(attention.k(tokens)), self._heads(attention.v(tokens)))

    def heads(
        self, index: int, stream: Tensor, memory: Memory, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of layer ``index`` for a stream ``(B, n, d)``."""
        attention = self.model.encoder.layer[index].attention.attn
        queries, keys, values = (f(stream) for f in (attention.q, attention.k, attention.v))
        return self._heads(queries), self._heads(keys), self._heads(values)

    def run_stream(
        self, index: int, stream: Tensor, memory: Memory, mask: Tensor | None = None
    ) -> Tensor:
        """Run layer ``index`` on a stream ``(B, n, d)`` that attends to itself and the memory."""
        layer = self.model.encoder.layer[index]
        seen = key_mask(mask, memory.length() + stream.shape[1])
        read = attend(*self.heads(index, stream, memory), memory, seen)
        read = layer.attention.attn.o(read.transpose(1, 2).flatten(2))
        attended = layer.attention.LayerNorm(read + stream)
        outputs: Tensor = layer.output(layer.intermediate(attended), attended)
        return outputs

    def _heads(self, projected: Tensor) -> Tensor:
        """Reshape ``(B, N, d)`` to ``(B, h, N, d / h)``."""
        return projected.unflatten(2, (self.model.config.num_attention_heads, -1)).transpose(1, 2)
