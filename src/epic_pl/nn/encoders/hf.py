"""Hugging Face models as frozen encoders, with an attention function that can read a memory.

Layers of transformers pass their keyword arguments to the attention function that the config names.
So registering a function is enough, and no layer's code is copied.

Shape legend: B batch, N tokens, n positions of a stream, h heads, d width.
"""

from abc import abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from epic_pl.nn.encoders.base import Encoder, Pooling, masked_mean, read_mask
from epic_pl.nn.encoders.reading import Memory, read_attention
from epic_pl.utils.errors import EncoderError

READING_ATTENTION = "epic_pl_reading_sdpa"


def _reading_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    memory: Memory | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """SDPA over the stream and, if given, a memory; returns ``(B, n, h, d / h)``."""
    if memory is not None:
        scale = kwargs.get("scaling")
        read = read_attention(query, key, value, memory, attention_mask, scale)
        return read.transpose(1, 2).contiguous(), None
    outputs: tuple[Tensor, None] = sdpa_attention_forward(
        module, query, key, value, attention_mask, **(kwargs | {"is_causal": False})
    )
    return outputs


AttentionInterface.register(READING_ATTENTION, _reading_attention)
AttentionMaskInterface.register(READING_ATTENTION, sdpa_mask)


class Projections(NamedTuple):
    """The norm and the query, key and value projections of an attention layer."""

    norm: nn.Module
    query: nn.Module
    key: nn.Module
    value: nn.Module


class HFEncoder(Encoder):
    """A model of the transformers library whose layers take ``attention_mask`` and ``memory``.

    Args:
        model: the model; its attention function is replaced by SDPA that can read a memory.
        pooling: "auto", "cls" or "mean".
        **running: further arguments of :class:`~epic_pl.nn.encoders.base.Encoder`.
    """

    model: Any

    def __init__(self, model: PreTrainedModel, pooling: Pooling = "auto", **running: Any) -> None:
        config: Any = model.config
        model.set_attn_implementation(READING_ATTENTION)  # any other would ignore a memory
        super().__init__(model, config.hidden_size, config.num_hidden_layers, pooling, **running)

    @abstractmethod
    def _layers(self) -> Any:
        """The model's transformer layers."""

    @abstractmethod
    def _projections(self, index: int) -> Projections:
        """Projections of the attention in layer ``index``."""

    def example(self, rows: int, tokens: int, generator: torch.Generator) -> Tensor:
        """Random token ids ``(B, N)``."""
        return torch.randint(self.model.config.vocab_size, (rows, tokens), generator=generator)

    def configuration(self) -> dict[str, Any]:
        """Entries of the config that affect outputs, but not names or shapes of weights.

        ``pad_token_id`` shifts the positions of RoBERTa-like models.
        """
        names = (
            *("model_type", "hidden_act", "layer_norm_eps", "num_attention_heads", "is_decoder"),
            *("pad_token_id", "position_embedding_type", "image_size", "patch_size"),
        )
        return {name: getattr(self.model.config, name, None) for name in names}

    def _layer(self, index: int, tokens: Tensor, attention_mask: Tensor | None) -> Tensor:
        outputs: Tensor = self._layers()[index](tokens, attention_mask=attention_mask)
        return outputs

    def memory(self, index: int, tokens: Tensor) -> Memory:
        """Keys and values of layer ``index`` for the tokens ``(B, N, d)`` that enter it."""
        norm, _, key, value = self._projections(index)
        normed = norm(tokens)
        return Memory(self._split_heads(key(normed)), self._split_heads(value(normed)))

    def queries(self, index: int, tokens: Tensor) -> Tensor:
        """Queries of layer ``index`` for the tokens ``(B, N, d)`` that enter it."""
        norm, query, _, _ = self._projections(index)
        return self._split_heads(query(norm(tokens)))

    def read_layer(
        self, index: int, stream: Tensor, memory: Memory, mask: Tensor | None = None
    ) -> Tensor:
        """Run layer ``index`` on a stream ``(B, n, d)`` that attends to itself and the memory."""
        seen = read_mask(mask, memory.length() + stream.shape[1])
        outputs: Tensor = self._layers()[index](stream, attention_mask=seen, memory=memory)
        return outputs

    def _split_heads(self, projected: Tensor) -> Tensor:
        """Reshape ``(B, N, d)`` to ``(B, h, N, d / h)``."""
        batch, length, width = projected.shape
        heads: int = self.model.config.num_attention_heads
        return projected.view(batch, length, heads, width // heads).transpose(1, 2)


class HFTextEncoder(HFEncoder):
    """A text model with ``embeddings`` and ``encoder.layer``, such as BERT and RoBERTa.

    "auto" and "cls" pool the first token, "mean" the visible ones; a pooler is not used.

    Raises:
        EncoderError: if the model has no ``embeddings`` and ``encoder.layer``.
    """

    def __init__(self, model: PreTrainedModel, pooling: Pooling = "auto", **running: Any) -> None:
        layers = getattr(getattr(model, "encoder", None), "layer", None)
        if layers is None or not hasattr(model, "embeddings"):
            name = type(model).__name__
            raise EncoderError(f"{name} has no embeddings and encoder.layer to run.")
        super().__init__(model, pooling, **running)

    def embed(self, inputs: Tensor) -> Tensor:
        """Tokens ``(B, N, d)`` of token ids ``(B, N)``."""
        tokens: Tensor = self.model.embeddings(input_ids=inputs)
        if hasattr(self.model, "embeddings_project"):  # ELECTRA's narrower embeddings
            tokens = self.model.embeddings_project(tokens)
        return tokens

    def pool(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pooled output ``(B, d)``; no norm follows, since the last layer ends with one."""
        return masked_mean(tokens, mask) if self.pooling == "mean" else tokens[:, 0]

    def can_trim_last_layer(self, index: int) -> bool:
        """Whether only the first token is pooled."""
        return self.pooling != "mean"

    def _layers(self) -> Any:
        return self.model.encoder.layer

    def _projections(self, index: int) -> Projections:
        attention = self._layers()[index].attention.self
        return Projections(nn.Identity(), attention.query, attention.key, attention.value)
