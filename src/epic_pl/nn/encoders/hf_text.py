"""Hugging Face BERT-like text models as frozen encoders.

Shape legend: B batch, N tokens, d width.
"""

from typing import Any

from torch import Tensor, nn

from epic_pl.errors import EncoderError
from epic_pl.nn.encoders.base import Pooling, masked_mean
from epic_pl.nn.encoders.hf_base import HFEncoder, Projections


class HFTextEncoder(HFEncoder):
    """A text model with ``embeddings`` and ``encoder.layer``, such as BERT and RoBERTa.

    Args:
        model: the model; a pooler is not used.
        pooling: "cls" is the first token, "mean" the mean of the visible ones, "auto" is "cls".
        **running: further options of :class:`~epic_pl.nn.encoders.base.Encoder`.

    Raises:
        EncoderError: if the model is not built this way.
    """

    def __init__(self, model: nn.Module, pooling: Pooling = "auto", **running: Any) -> None:
        layers: Any = getattr(getattr(model, "encoder", None), "layer", None)
        if layers is None or not hasattr(model, "embeddings"):
            raise EncoderError(
                f"{type(model).__name__} has no embeddings and encoder.layer to run."
            )
        super().__init__(model, layers, pooling, **running)

    def embed(self, inputs: Tensor) -> Tensor:
        """Token ids ``(B, N)`` to tokens ``(B, N, d)``."""
        tokens: Tensor = self.model.embeddings(input_ids=inputs)
        if hasattr(self.model, "embeddings_project"):  # ELECTRA's narrower embeddings
            tokens = self.model.embeddings_project(tokens)
        return tokens

    def pool(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pooled output ``(B, d)``; these models normalise inside their last layer."""
        return masked_mean(tokens, mask) if self.pooling == "mean" else tokens[:, 0]

    def ends_in_first(self, index: int) -> bool:
        """Whether the first token is pooled."""
        return self.pooling != "mean"

    def _layers(self) -> Any:
        return self.model.encoder.layer

    def _projections(self, index: int) -> Projections:
        attention = self._layers()[index].attention.self
        return Projections(nn.Identity(), attention.query, attention.key, attention.value)
