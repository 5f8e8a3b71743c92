"""Models of the transformers library as frozen encoders.

The library's layers pass their mask as it is to the attention function that the config names. So
it is enough to register a function that gets a memory with the mask; no layer's code is copied.

Shape legend: B batch, N tokens, n prompts, h heads, d width.
"""

import inspect
import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from epic_pl.nn.encoders.base import Encoder, Pooling, key_mask
from epic_pl.nn.encoders.memory import Memory, attend
from epic_pl.nn.precision import exact_products
from epic_pl.utils.errors import EncoderError, raised_as

MEMORY_ATTENTION = "epic_pl_memory_sdpa"

# the library's names of the parts around the layers
_EMBEDDINGS = ("embeddings", "embed_tokens")
_AFTER_EMBEDDINGS = ("embeddings_project", "pre_layrnorm")  # of ELECTRA and of CLIP
_ROTATIONS = ("rotary_emb", "rope_embeddings")
_LAST_NORMS = ("final_layer_norm", "post_layernorm", "layernorm", "final_norm", "norm", "rms_norm")

# the fingerprint of these has the entries below, that of others all that differ from the defaults
_LISTED = ["bert", "roberta", "xlm-roberta", "camembert", "electra"]
_LISTED += ["clip_text_model", "clip_vision_model"]
_ENTRIES = ["model_type", "hidden_act", "layer_norm_eps", "num_attention_heads", "is_decoder"]
_ENTRIES += ["pad_token_id", "position_embedding_type", "image_size", "patch_size"]
_NO_ENTRIES = ("architectures", "dtype", "transformers_version", "use_cache", "_name_or_path")

_LONGEST_CHECK = 1024  # tokens; a longer sliding window is not checked
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}


class _MemoryMask(NamedTuple):
    """What the attention function gets as a mask: the mask, and a memory to read.

    Without a memory it only appends queries, keys and values ``(B, h, N, d / h)`` to ``heads``.
    """

    mask: Tensor | None
    memory: Memory | None
    heads: list[Tensor]


class _HeadsComputed(Exception):
    """Ends a layer whose further outputs are not needed."""


def _memory_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **kwargs: Any
) -> Any:
    """SDPA over the stream and, if given, a memory; returns ``(B, n, h, d / h)`` and None."""
    if not isinstance(attention_mask, _MemoryMask):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    mask, memory, heads = attention_mask
    scale = kwargs.get("scaling") or query.shape[-1] ** -0.5
    if memory is not None:
        read = attend(query, key, value, memory, mask, scale)
        return read.transpose(1, 2).contiguous(), None
    heads += [query * (scale * query.shape[-1] ** 0.5), key.to(value.dtype), value]
    if not torch.compiler.is_compiling():
        raise _HeadsComputed
    return query.transpose(1, 2), None  # a traced graph leaves out what is not used


AttentionInterface.register(MEMORY_ATTENTION, _memory_attention)
AttentionMaskInterface.register(MEMORY_ATTENTION, sdpa_mask)


class TransformersEncoder(Encoder):
    """A text or image model of the transformers library, such as BERT, ModernBERT or SigLIP.

    Any model whose layers follow the conventions of the library: hidden states in and out, the
    attention function of the config, a full, causal or sliding-window mask, rotations by position
    or none. Prompts are not rotated in models whose tokens see each other; in causal ones they have
    the positions after the last visible token. With sliding windows they see all visible tokens.

    "auto" is the library's own pooling: of images the attention pooling, the class token or the
    mean, and of texts the first token, or the last visible one in causal models. "cls" is the first
    token, "mean" the mean of patches or visible tokens. A layer called ``pooler`` is not used.

    Args:
        model: the model; its attention function is replaced by SDPA that can read a memory.
        pooling: "auto", "cls" or "mean".
        image_size: height and width of images in pixels; None is the model's own.
        **running: further arguments of :class:`~epic_pl.nn.encoders.base.Encoder`.

    Raises:
        EncoderError: if the layers, run one by one, do not give the outputs of the whole model.
    """

    hides_prompts = True
    model: Any

    def __init__(
        self,
        model: PreTrainedModel,
        pooling: Pooling = "auto",
        image_size: int | None = None,
        **running: Any,
    ) -> None:
        config: Any = model.config
        self._problem = f"{type(model).__name__} cannot be run layer by layer"
        with raised_as(EncoderError, self._problem):
            width, depth = config.hidden_size, config.num_hidden_layers
            super().__init__(model, width, depth, pooling, **running)
            self.images = model.main_input_name == "pixel_values"
            lists = {name: x for name, x in model.named_modules() if isinstance(x, nn.ModuleList)}
            self._path = next(name for name, layers in lists.items() if len(layers) == depth)
            self._windows = [_window(layer) for layer in lists[self._path]]
            self._resamples = _takes(self._part(_EMBEDDINGS), "interpolate_pos_encoding")
            self._rotates_by_type = _takes(self._part(_ROTATIONS), "layer_type")
            self.causal = self._norm_is_pooled = False
            self._size: int = getattr(config, "image_size", 0)
            if self.images:
                patches = (config.image_size // config.patch_size) ** 2
                self.num_prefix_tokens = self.embed(self._inputs(0)).shape[1] - patches
            model.set_attn_implementation(MEMORY_ATTENTION)
            if next(model.parameters()).device.type != "meta":  # it has no numbers to compare
                self._check()
        if image_size and not self.required_size:
            self._size = image_size
        if pooling == "cls" and self.images and not self.num_prefix_tokens:
            raise EncoderError("It has no class token: set encoders.image.pooling to auto.")

    @property
    def required_size(self) -> tuple[int, int] | None:
        """Image size of the position embedding; None if it is resampled for each input."""
        fixed = hasattr(self._part(_EMBEDDINGS), "position_embedding") and not self._resamples
        return (self.model.config.image_size,) * 2 if self.images and fixed else None

    def example(self, rows: int, tokens: int, generator: torch.Generator) -> Tensor:
        """Random token ids ``(B, N)``, or images ``(B, 3, H, W)``."""
        if self.images:
            return torch.randn(rows, 3, self._size, self._size, generator=generator)
        return torch.randint(self.model.config.vocab_size, (rows, tokens), generator=generator)

    def configuration(self) -> dict[str, Any]:
        """Entries of the config that affect outputs."""
        return config_entries(self.model.config)

    def embed(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Tokens ``(B, N, d)`` of token ids ``(B, N)`` or images ``(B, 3, H, W)``."""
        options = {}
        if self.images and self._resamples:
            side = self.model.config.image_size
            options["interpolate_pos_encoding"] = tuple(inputs.shape[-2:]) != (side, side)
        tokens: Tensor = self._part(_EMBEDDINGS)(inputs, **options)
        follows = self._part(_AFTER_EMBEDDINGS)
        return tokens if follows is None else follows(tokens)

    def pool(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pooled output ``(B, d)``, after the last norm if the model has one."""
        norm, head = self._part(_LAST_NORMS), self._part(("head",))
        if norm is not None and not self._norm_is_pooled:
            tokens = norm(tokens)
        if self.pooling == "mean":
            pooled = self.mean(tokens, mask)
        elif head is not None and self.pooling == "auto":
            pooled = head(tokens if self.images else last_visible(tokens, mask))
        elif self.causal:
            pooled = last_visible(tokens, mask)
        elif self.images and not self.num_prefix_tokens:
            pooled = tokens.mean(dim=1)
        else:
            pooled = tokens[:, 0]
        return norm(pooled) if norm is not None and self._norm_is_pooled else pooled

    def can_trim_last_layer(self, index: int) -> bool:
        """Whether only the first token is pooled, and positions do not matter inside layers."""
        auto = self.pooling == "auto" and self._part(("head",))
        several = auto or self.pooling == "mean" or (self.images and not self.num_prefix_tokens)
        places = self._part(_ROTATIONS) or self._windows[index] or self.causal
        return not several and not places

    def _layer(self, index: int, tokens: Tensor, mask: Tensor | None, num_extra: int) -> Tensor:
        number = tokens.shape[1] - num_extra
        end = self._end(None if mask is None else mask[:, 0, 0], number, tokens)
        seen = self._seen(index, number, tokens.device)
        if seen is not None:
            allowed = pad(seen, (0, num_extra, 0, num_extra), value=True)[None, None]
            if mask is not None:
                # with left padding a padded query has no visible key, so it may attend to itself
                itself = torch.eye(tokens.shape[1], dtype=torch.bool, device=tokens.device)
                allowed = (allowed & mask) | itself
            mask = allowed
        return self._run(index, tokens, mask, num_extra, end)

    def memory(self, index: int, tokens: Tensor) -> Memory:
        """Keys and values of layer ``index`` for the tokens ``(B, N, d)`` that enter it."""
        number = tokens.shape[1]
        if number == 0:  # no layer of the library runs without a token
            tokens = pad(tokens, (0, 0, 0, 1))
        _, keys, values = self._heads(index, tokens, 0, None)
        return Memory(keys[:, :, :number], values[:, :, :number])

    def heads(
        self, index: int, stream: Tensor, memory: Memory, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of layer ``index`` for a stream that reads the memory."""
        return self._heads(index, stream, stream.shape[1], self._end(mask, memory.length(), stream))

    def run_stream(
        self, index: int, stream: Tensor, memory: Memory, mask: Tensor | None = None
    ) -> Tensor:
        """Run layer ``index`` on a stream ``(B, n, d)`` that attends to itself and the memory."""
        given = _MemoryMask(key_mask(mask, memory.length() + stream.shape[1]), memory, [])
        end = self._end(mask, memory.length(), stream)
        return self._run(index, stream, given, stream.shape[1], end)

    def _heads(self, index: int, tokens: Tensor, *prompts: Any) -> tuple[Tensor, Tensor, Tensor]:
        given = _MemoryMask(None, None, [])
        with suppress(_HeadsComputed):
            self._run(index, tokens, given, *prompts)
        queries, keys, values = given.heads
        return queries, keys, values

    def _run(self, index: int, tokens: Tensor, mask: Any, n: int, end: Tensor | None) -> Tensor:
        """Run the library's layer; the last n tokens are prompts, from the places ``end`` on."""
        rotation = self._rotation(index, tokens, n, end)
        options = {} if rotation is None else {"position_embeddings": rotation}
        layer = self.model.get_submodule(self._path)[index]
        return cast(Tensor, layer(tokens, attention_mask=mask, **options))

    def _rotation(self, index: int, tokens: Tensor, n: int, end: Tensor | None) -> Any:
        """Cosines and sines by which a layer rotates queries and keys; None if it does not."""
        rotate, number = self._part(_ROTATIONS), tokens.shape[1] - n
        if rotate is None:
            return None
        if self.images:  # the layer rotates the last positions: prompts by an angle of zero
            patches = max(0, number - self.num_prefix_tokens)
            side = max(1, math.isqrt(patches)) * self.model.config.patch_size
            cosines, sines = rotate(tokens.new_empty(1, 1, 1, 1).expand(1, 1, side, side))
            more = (0, 0, 0, n)
            return pad(cosines[:patches], more, value=1.0), pad(sines[:patches], more)
        own = torch.zeros(1, n, dtype=torch.long, device=tokens.device)
        if end is not None:
            own = end[:, None] + torch.arange(n, device=tokens.device)  # (B, n)
        places = torch.arange(number, device=tokens.device).expand(own.shape[0], -1)
        types = (self.model.config.layer_types[index],) if self._rotates_by_type else ()
        return rotate(tokens, torch.cat([places, own], dim=1), *types)

    def _seen(self, index: int, number: int, device: torch.device) -> Tensor | None:
        """Which of N tokens ``(N, N)`` each token sees in a layer; None if it sees all."""
        window = self._windows[index]
        if window is None and not self.causal:
            return None
        places = torch.arange(number, device=device)
        distance = places[:, None] - places
        seen = distance.abs() < (window or number)
        return seen & (distance >= 0) if self.causal else seen

    def _end(self, mask: Tensor | None, number: int, tokens: Tensor) -> Tensor | None:
        """Positions ``(B,)`` after the last visible of N tokens, if prompts stand there."""
        if not self.causal:
            return None
        whole = torch.full((1,), number, device=tokens.device)
        return whole if mask is None else _last_place(mask[:, :number]) + 1

    def _part(self, names: tuple[str, ...]) -> Any:
        """The part of the model that has one of the names; None without one."""
        return next((part for name in names if (part := getattr(self.model, name, None))), None)

    def _inputs(self, number: int) -> Tensor:
        inputs = self.example(1, number, torch.Generator().manual_seed(0))
        return inputs.to(next(self.model.parameters()).device)

    @torch.no_grad()
    @exact_products()
    def _check(self) -> None:
        """Find out how the whole model masks and pools, and compare it with its layers."""
        self.model.set_attn_implementation("eager")
        if not self.images:
            self.causal = is_causal(lambda ids: self._whole(ids).last_hidden_state, self._inputs(2))
        longest = max((window for window in self._windows if window), default=4)
        inputs = self._inputs(min(longest + 2, _LONGEST_CHECK))
        whole = self._whole(inputs)
        self.model.set_attn_implementation(MEMORY_ATTENTION)  # any other would ignore a memory
        tokens, expected = self.embed(inputs), whole.last_hidden_state
        at = tokens.shape[1] - 1 if self.causal else 0
        for index in range(self.num_layers):
            outputs = self._layer(index, tokens, None, 0)
            read = self._read_others(index, tokens, at)
            self._require_equal(read, outputs[:, at : at + 1], f"a token read in layer {index}")
            tokens = outputs
        norm = self._part(_LAST_NORMS)
        normed = tokens if norm is None else norm(tokens)
        self._norm_is_pooled = _error(tokens, expected) < _error(normed, expected)
        last = tokens if self._norm_is_pooled else normed
        self._require_equal(last, expected, "the output of its last layer")
        given = getattr(whole, "pooler_output", None)
        own = self.pooling == "auto" and getattr(self.model, "pooler", None) is None
        if self.images and own and given is not None:
            self._require_equal(self.pool(tokens), given, "its pooled output")

    def _whole(self, inputs: Tensor) -> Any:
        if self.images:
            return self.model(pixel_values=inputs)
        return self.model(input_ids=inputs, attention_mask=torch.ones_like(inputs))

    def _read_others(self, index: int, tokens: Tensor, at: int) -> Tensor:
        """Output ``(1, 1, d)`` of the token ``at``, which reads the others as a prompt does."""
        others = [place for place in range(tokens.shape[1]) if place != at]
        seen = self._seen(index, tokens.shape[1], tokens.device)
        _, keys, values = self._heads(index, tokens, 0, None)
        mask = None if seen is None else seen[at, others][None]
        memory = Memory(keys[:, :, others], values[:, :, others])
        return self.run_stream(index, tokens[:, at : at + 1], memory, mask)

    def _require_equal(self, ours: Tensor, expected: Tensor, what: str) -> None:
        error = _error(ours, expected)
        if not error < (0.1 if self.held else _TOLERANCE.get(ours.dtype, 0.1)):
            raise EncoderError(f"{self._problem}: {what} is off by {error:.0e}.")


def _error(ours: Tensor, expected: Tensor) -> float:
    return float((ours - expected).abs().max() / expected.abs().max().clamp(min=1e-6))


def _window(layer: nn.Module) -> int | None:
    """Tokens at this distance or more do not see each other in a layer."""
    windows = (getattr(part, "sliding_window", None) for part in layer.modules())
    return max(filter(None, windows), default=None)


def _takes(part: Any, argument: str) -> bool:
    return part is not None and argument in inspect.signature(part.forward).parameters


def _last_place(mask: Tensor) -> Tensor:
    return (mask * torch.arange(mask.shape[1], device=mask.device)).argmax(dim=1)


def last_visible(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """The last visible token ``(B, d)`` of ``(B, N, d)``."""
    if mask is None:
        return tokens[:, -1]
    return tokens[torch.arange(tokens.shape[0], device=mask.device), _last_place(mask)]


def is_causal(run: Callable[[Tensor], Tensor], ids: Tensor) -> bool:
    """Whether the output for the first of two tokens ``(1, 2)`` does not depend on the second."""
    other = torch.stack([ids[:, 0], ids[:, 0]], dim=1)
    third = torch.stack([ids[:, 0], (ids[:, 0] + 1) % 3], dim=1)
    return torch.equal(run(other)[:, 0], run(third)[:, 0])


def config_entries(config: Any) -> dict[str, Any]:
    """Plain entries of a config for a fingerprint."""
    if config.model_type in _LISTED:
        return {name: getattr(config, name, None) for name in _ENTRIES}
    entries = config.to_diff_dict() | {"model_type": config.model_type}
    return {key: repr(entries[key]) for key in entries if key not in _NO_ENTRIES}
