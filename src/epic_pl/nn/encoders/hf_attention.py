"""An attention function for Hugging Face layers that can read a memory.

Their layers hand keyword arguments through to the attention function that the config names, so
registering one is all it takes: no layer's code is copied.
"""

from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from epic_pl.nn.encoders.reading import Memory, Projection, Unprojected, read_attention

READING_ATTENTION = "epic_pl_reading_sdpa"


def _reading_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    memory: Memory | Unprojected | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """SDPA, or over the memory's keys and values and the layer's own; ``(B, n, h, d / h)``."""
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


def let_read(model: nn.Module) -> nn.Module:
    """Set the attention of a model: any other would leave a memory out without a word."""
    config: Any = model.config
    config._attn_implementation = READING_ATTENTION
    return model


def hf_configuration(config: Any) -> dict[str, Any]:
    """Entries of a model's config that change its outputs, but not its weights' names and shapes.

    ``pad_token_id`` shifts the positions of RoBERTa and its kin.
    """
    names = (
        *("model_type", "hidden_act", "layer_norm_eps", "num_attention_heads", "is_decoder"),
        *("pad_token_id", "position_embedding_type", "image_size", "patch_size"),
    )
    return {name: getattr(config, name, None) for name in names}


def split_heads(projected: Tensor, head_dim: int) -> Tensor:
    """``(B, N, d)`` to ``(B, h, N, d / h)``."""
    batch, length, _ = projected.shape
    heads = projected.shape[-1] // head_dim
    return projected.view(batch, length, heads, head_dim).transpose(1, 2)


def unprojected(tokens: Tensor, key: nn.Module, value: nn.Module, heads: int) -> Unprojected | None:
    """Tokens that linear layers would make keys and values of; None if these are adapted."""
    if not (type(key) is type(value) is nn.Linear):
        return None
    return Unprojected(
        tokens, Projection(key.weight, key.bias), Projection(value.weight, value.bias), heads
    )
