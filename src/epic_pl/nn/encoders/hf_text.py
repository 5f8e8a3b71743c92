"""Hugging Face BERT-like text models as frozen encoders.

Shape legend: B batch, N tokens, d width.
"""

from typing import Any

from torch import Tensor, nn

from epic_pl.errors import EncoderError
from epic_pl.nn.encoders.base import Encoder, Pooling, masked_mean, read_mask
from epic_pl.nn.encoders.hf_attention import hf_configuration, let_read, split_heads, unprojected
from epic_pl.nn.encoders.reading import Memory, Unprojected


class HFTextEncoder(Encoder):
    """A text model with ``embeddings`` and ``encoder.layer``: BERT, RoBERTa and their kin.

    Args:
        model: its attention becomes SDPA that can read a memory; a pooler is not used.
        pooling: "cls" is the first token, "mean" the mean of the visible ones, "auto" is "cls".

    Raises:
        EncoderError: if the model is not built this way.
    """

    model: Any

    def __init__(self, model: nn.Module, pooling: Pooling = "auto") -> None:
        layers: Any = getattr(getattr(model, "encoder", None), "layer", None)
        config: Any = model.config
        if layers is None or not hasattr(model, "embeddings"):
            raise EncoderError(
                f"{type(model).__name__} has no embeddings and encoder.layer to run."
            )
        super().__init__(let_read(model), config.hidden_size, len(layers), pooling)

    def embed(self, inputs: Tensor) -> Tensor:
        """Token ids ``(B, N)`` to tokens ``(B, N, d)``."""
        tokens: Tensor = self.model.embeddings(input_ids=inputs)
        if hasattr(self.model, "embeddings_project"):  # ELECTRA's narrower embeddings
            tokens = self.model.embeddings_project(tokens)
        return tokens

    def configuration(self) -> dict[str, Any]:
        """Options of the architecture that leave no trace in names and shapes."""
        return hf_configuration(self.model.config)

    def _layer(self, index: int, tokens: Tensor, attention_mask: Tensor | None) -> Tensor:
        outputs: Tensor = self.model.encoder.layer[index](tokens, attention_mask=attention_mask)
        return outputs

    def pool(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """``(B, d)``; these models normalise inside their last layer."""
        return masked_mean(tokens, mask) if self.pooling == "mean" else tokens[:, 0]

    def projections(self, index: int) -> list[nn.Module]:
        """Three of layer ``index``."""
        attention = self.model.encoder.layer[index].attention.self
        return [attention.query, attention.key, attention.value]

    def memory(self, index: int, tokens: Tensor) -> Memory:
        """Keys and values of layer ``index`` for the tokens that enter it."""
        attention = self.model.encoder.layer[index].attention.self
        head_dim = attention.attention_head_size
        return Memory(
            split_heads(attention.key(tokens), head_dim),
            split_heads(attention.value(tokens), head_dim),
        )

    def unprojected(self, index: int, tokens: Tensor) -> Unprojected | None:
        """The tokens as they enter layer ``index``."""
        attention = self.model.encoder.layer[index].attention.self
        heads = attention.num_attention_heads
        return unprojected(tokens, attention.key, attention.value, heads)

    def queries(self, index: int, tokens: Tensor) -> Tensor:
        """Queries of layer ``index`` for the tokens that enter it."""
        attention = self.model.encoder.layer[index].attention.self
        return split_heads(attention.query(tokens), attention.attention_head_size)

    def read_layer(
        self, index: int, stream: Tensor, memory: Memory | Unprojected, mask: Tensor | None = None
    ) -> Tensor:
        """Layer ``index`` on a stream ``(B, n, d)`` that reads itself and the memory."""
        outputs: Tensor = self.model.encoder.layer[index](
            stream,
            attention_mask=read_mask(mask, memory.length + stream.shape[1]),
            memory=memory,
        )
        return outputs

    def summary(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor | None:
        """The first token, unless the mean is pooled."""
        return None if self.pooling == "mean" else tokens[:, :1]

    def pool_summary(self, summary: Tensor) -> Tensor:
        """The summary itself."""
        return summary[:, 0]
