"""The interface of a frozen encoder.

Shape legend: B batch, N tokens, n extra positions (prompts), d width, h heads.
"""

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal, Self, TypeVar, cast, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from epic_pl.nn.encoders.memory import Memory
from epic_pl.utils.errors import EncoderError

T = TypeVar("T")
_ROWS = 4  # rows at a time of what activation checkpointing divides
Pooling = Literal["auto", "cls", "mean"]
# prompts learn as much from 8 x 8 cells of a photograph as from 16 x 16 patches, at a quarter of
# the disk (docs/feature_cache.md)
_MAX_SIDE = 8


class Encoder(nn.Module, ABC):
    """A frozen transformer whose layers can be run one by one.

    Subclasses implement the abstract methods; read-only prompts also need ``memory``, ``heads``
    and ``run_stream``. A tower runs the layers, with or without prompts. Parameters get no
    gradient, and :meth:`train` leaves the encoder in evaluation mode, so dropout stays off.

    Args:
        model: the library's module; its parameter names are unchanged.
        width: d.
        num_layers: number of transformer layers.
        pooling: what :meth:`pool` returns; "auto" is the architecture's own pooling.
        precision: autocast data type of the frozen layers; None for no autocast.
        held: whether matrices of weights are held in bfloat16, and all layers run in it.
        checkpoint_layers: whether to use activation checkpointing: layers that run through
            :meth:`checkpointed` keep only their inputs, and run again in the backward pass.
    """

    images = False
    """Whether inputs are images."""
    hides_prompts = False
    """Whether :meth:`run_layer` can hide prompts from tokens."""
    problem = ""
    """Why prompts cannot enter its layers, as a sentence; empty if they can."""
    num_prefix_tokens = 0
    """Number of tokens before the patches of an image (class token, registers)."""
    _like: Tensor

    def __init__(
        self,
        model: nn.Module,
        width: int,
        num_layers: int,
        pooling: Pooling = "auto",
        *,
        precision: torch.dtype | None = None,
        held: bool = False,
        checkpoint_layers: bool = False,
    ) -> None:
        super().__init__()
        self.model = model.requires_grad_(False).eval()
        self.width = width
        self.num_layers = num_layers
        self.pooling = pooling
        self.precision = precision
        self.held = held
        self.checkpoint_layers = checkpoint_layers
        self.num_parameters = sum(p.numel() for p in model.parameters())
        self.dense = nn.Sequential()
        if held:
            _hold(model)
        dtype = torch.float32 if held else next(model.parameters()).dtype
        self.register_buffer("_like", torch.zeros((), dtype=dtype), persistent=False)
        self._fingerprint: str | None = None
        self._frozen = True

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
        """Build the frozen encoder ``name`` of this family; ``encoders.*.family`` calls it.

        Args:
            name: the encoder's name within the family, such as a hub name or a local folder.
            revision: commit or tag of a hub name.
            pretrained: False asks for random weights from a fixed seed.
            pooling: see :class:`~epic_pl.module.config.EncoderConfig`.
            image_size: height and width of images in pixels; None is the encoder's own size.
            **running: further arguments of the class, such as ``precision``.

        Raises:
            EncoderError: if the family does not define it.
        """
        raise EncoderError(
            f"{cls.__module__}.{cls.__name__} has no classmethod `from_name`: see docs/extend.md."
        )

    @property
    def required_size(self) -> tuple[int, int] | None:
        """Height and width in pixels that images must have; None if any size is accepted."""
        return None

    @property
    def dtype(self) -> torch.dtype:
        """Data type of tokens between layers."""
        return self._like.dtype

    @abstractmethod
    def example(self, rows: int, tokens: int, generator: torch.Generator) -> Tensor:
        """Random valid inputs on the CPU: images ``(B, 3, H, W)``, or token ids ``(B, N)``."""

    def require_layers(self) -> None:
        """Raise an EncoderError if prompts cannot enter the layers."""
        if self.problem:
            raise EncoderError(
                f"Prompts cannot enter the layers of {type(self.model).__name__}. {self.problem} "
                "Take LinearProbe, LateFusionMLP, NoPrompts, Parts or FullFineTuning, or another "
                "encoder (docs/methods.md), or write its class (docs/extend.md)."
            )

    @abstractmethod
    def embed(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Tokens ``(B, N, d)`` that enter layer 0, from the modality's raw inputs.

        Only a model that runs as a whole needs ``mask (B, N)``, True on visible tokens.
        """

    @abstractmethod
    def pool(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pooled output ``(B, d)`` of the last layer's tokens, after the encoder's last norm."""

    def append(self, dense: Sequence[nn.Module]) -> None:
        """Let frozen layers of the same width follow :meth:`pool`; call it before any other method.

        Raises:
            EncoderError: if their output has another width.
        """
        self.dense.extend(dense).requires_grad_(False).eval()
        widths = [layer.out_features for layer in dense if isinstance(layer, nn.Linear)]
        if widths[-1:] not in ([], [self.width]):
            sizes = f"Dense layers give {widths[-1]} numbers, not the encoder's {self.width}"
            raise EncoderError(f"{sizes}: leave them out of modules.json in a local copy.")
        self.num_parameters += sum(p.numel() for p in self.dense.parameters())

    def pooled(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Output ``(B, d)`` of :meth:`pool` and of the layers that follow it."""
        return cast(Tensor, self.dense(self.pool(tokens, mask)))

    @abstractmethod
    def _layer(self, index: int, tokens: Tensor, mask: Tensor | None, num_extra: int) -> Tensor:
        """Output of layer ``index`` for all positions, the last ``num_extra`` of them prompts.

        The mask ``(B, 1, 1, N + n)`` is SDPA's, True on visible positions; None if all are. With
        :attr:`hides_prompts` it may be ``(B, 1, N + n, N + n)``, a row for each position.
        """

    def memory(self, index: int, tokens: Tensor) -> Memory:
        """Keys and values of layer ``index`` for the tokens ``(B, N, d)`` that enter it."""
        raise NotImplementedError

    def heads(
        self, index: int, stream: Tensor, memory: Memory, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values ``(B, h, n, d / h)`` that :meth:`run_stream` computes.

        They are those of the stream alone, after norms and rotations. Scores are the products of
        queries and keys, divided by ``sqrt(d / h)``.
        """
        raise NotImplementedError

    def run_stream(
        self, index: int, stream: Tensor, memory: Memory, mask: Tensor | None = None
    ) -> Tensor:
        """Run layer ``index`` on a stream ``(B, n, d)`` that attends to itself and a memory.

        ``mask (B, N + m)`` bool is True on what the stream sees: the N tokens of the memory, then
        the first m positions of the stream, 0 or more. Further positions, or without a mask all,
        are visible.
        """
        raise NotImplementedError

    @overload
    def run_layer(self, index: int, tokens: Tensor, mask: Tensor | None = None) -> Tensor: ...
    @overload
    def run_layer(
        self, index: int, tokens: Tensor, mask: Tensor | None, extra: Tensor, hidden: bool = False
    ) -> tuple[Tensor, Tensor]: ...
    def run_layer(
        self,
        index: int,
        tokens: Tensor,
        mask: Tensor | None = None,
        extra: Tensor | None = None,
        hidden: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Run one layer, optionally with extra positions after the tokens.

        Args:
            index: the layer, counted from 0.
            tokens: ``(B, N, d)``.
            mask: ``(B, N)`` bool, True on visible tokens; None if all are visible.
            extra: ``(B, n, d)`` prompts, which attend to every visible token and to each other;
                every token attends to them.
            hidden: whether no token attends to them, which gives the outputs of :meth:`run_stream`;
                requires :attr:`hides_prompts`.

        Returns:
            The outputs ``(B, N, d)`` of the tokens; with ``extra`` also those of the prompts.
        """
        if extra is None:
            mask = None if mask is None else _own_mask(mask)
            seen = key_mask(mask, tokens.shape[1])
            return self.checkpointed(self._layer, index, tokens, seen, 0)
        joint, n = torch.cat([tokens, extra], dim=1), extra.shape[1]  # (B, N + n, d)
        seen = _hiding_mask(mask, tokens, n) if hidden else key_mask(mask, joint.shape[1])
        outputs = self.checkpointed(self._layer, index, joint, seen, n)
        return outputs[:, : tokens.shape[1]], outputs[:, tokens.shape[1] :]

    @property
    def recomputes(self) -> bool:
        """Whether activation checkpointing is on and gradients are needed."""
        return self.checkpoint_layers and torch.is_grad_enabled()

    def checkpointed(self, layer: Callable[..., T], *arguments: Any) -> T:
        """Call ``layer``; with ``checkpoint_layers`` it runs again in the backward pass."""
        if not self.recomputes:
            return layer(*arguments)
        return cast(T, checkpoint(layer, *arguments, use_reentrant=False))

    def checkpointed_by_rows(self, function: Callable[..., Any], *inputs: Any) -> Any:
        """Call ``function``; with ``checkpoint_layers`` on a few rows at a time, to save memory.

        Args:
            function: returns tensors ``(B, ...)``, or None, in nested named tuples.
            *inputs: tensors ``(B, ...)``, lists of B items, or None.
        """
        if not self.recomputes:
            return function(*inputs)
        runs = []
        for start in range(0, len(inputs[0]), _ROWS):
            rows = slice(start, start + _ROWS)
            some = [None if given is None else given[rows] for given in inputs]
            runs.append(self.checkpointed(function, *some))
        return _concatenated(runs)

    def can_trim_last_layer(self, index: int) -> bool:
        """Whether the last layer, ``index``, can be run for the first token alone."""
        return False

    def run_last_layer(self, tokens: Tensor, mask: Tensor | None, extra: Tensor) -> Tensor:
        """Outputs ``(B, 1 + n, d)`` of the first token and the prompts in the last layer.

        They equal those of :meth:`run_layer`. Outputs of the other tokens are not computed, since
        pooling does not use them. Requires :meth:`can_trim_last_layer`.
        """
        return self.checkpointed(self._last_layer, tokens, mask, extra)

    def _last_layer(self, tokens: Tensor, mask: Tensor | None, extra: Tensor) -> Tensor:
        first, others = tokens[:, :1], tokens[:, 1:]
        if mask is not None:
            mask = torch.cat([mask[:, 1:], mask[:, :1]], dim=1)  # memory, then stream
        index = self.num_layers - 1
        stream = torch.cat([first, extra], dim=1)
        return self.run_stream(index, stream, self.memory(index, others), mask)

    def mean(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mean ``(B, d)`` of patches or visible words at any layer, without a norm."""
        patches = slice(self.num_prefix_tokens, None)
        return masked_mean(tokens[:, patches], None if mask is None else mask[:, patches])

    def merge(self, tokens: Tensor) -> Tensor:
        """Tokens ``(B, M, d)`` that prompts read; images have means of neighbouring patches."""
        return merged(tokens, self.num_prefix_tokens) if self.images else tokens

    def run_layers(
        self, start: int, stop: int, tokens: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """Run the layers ``start`` to ``stop - 1`` without prompts."""
        for index in range(start, stop):
            tokens = self.run_layer(index, tokens, mask)
        return tokens

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Compute the fingerprint of the original weights before they are moved or converted."""
        _ = self.fingerprint
        # `to`, `half`, `cuda`, ... have nothing else in common, and torch has no hook for them
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode unless the encoder was thawed."""
        return super().train(mode and not self._frozen)

    def thaw(self) -> Any:
        """Return the library's module, for a method that trains it; :meth:`train` then affects it.

        The method must enable gradients of the parameters itself. The fingerprint remains that of
        the pretrained weights.
        """
        _ = self.fingerprint
        self._frozen = False
        return self.model

    @abstractmethod
    def configuration(self) -> dict[str, Any]:
        """Plain values that outputs depend on besides weights, such as the activation function.

        They exclude the pooling and the image size, which callers choose.
        """

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the configuration and of all pretrained weights, hexadecimal.

        Computed once: at first use, or before the weights are resized, moved or converted.
        """
        if self._fingerprint is None:
            config = self.configuration() | ({"dense": repr(self.dense)} if self.dense else {})
            weights = {**self.model.state_dict(), **self.dense.state_dict(prefix="dense.")}
            digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
            for name, tensor in sorted(weights.items()):
                digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
                digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
            self._fingerprint = digest.hexdigest()
        return self._fingerprint


def _hold(model: nn.Module) -> None:
    """Hold matrices in bfloat16, one after the other; norms, biases and buffers are small."""
    for weight in model.parameters():
        weight.data = weight.data.to(torch.bfloat16 if weight.ndim > 1 else torch.float32)
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.data = buffer.data.float()


def _concatenated(parts: Sequence[Any]) -> Any:
    """Join tensors of some rows each, also inside named tuples."""
    if isinstance(parts[0], Tensor):
        return torch.cat(list(parts))
    return parts[0] and type(parts[0])(*map(_concatenated, zip(*parts, strict=True)))


def masked_mean(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """Mean ``(B, d)`` over the visible tokens ``(B, N, d)``; zero without visible tokens."""
    if mask is None:
        return tokens.mean(dim=1)
    weights = mask[..., None].to(tokens.dtype)  # (B, N, 1)
    return (tokens * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


def key_mask(mask: Tensor | None, length: int) -> Tensor | None:
    """SDPA's mask ``(B, 1, 1, length)``; positions after the given mask are visible."""
    if mask is None:
        return None
    return F.pad(mask, (0, length - mask.shape[1]), value=True)[:, None, None, :]


def _own_mask(mask: Tensor) -> Tensor:
    """What tokens see, ``(B, N)``: in a sample without visible tokens all of them."""
    return mask | ~mask.any(dim=1, keepdim=True)


def _hiding_mask(mask: Tensor | None, tokens: Tensor, n: int) -> Tensor:
    """SDPA's mask ``(B, 1, N + n, N + n)`` of N tokens, which see no prompt, and of n prompts."""
    number = tokens.shape[1]
    if mask is None:
        mask = tokens.new_ones(1, number, dtype=torch.bool)
    own, seen = F.pad(_own_mask(mask), (0, n)), F.pad(mask, (0, n), value=True)
    rows = own[:, None].expand(-1, number, -1), seen[:, None].expand(-1, n, -1)
    return torch.cat(rows, dim=1)[:, None]


def merged(tokens: Tensor, num_prefix: int) -> Tensor:
    """Tokens ``(B, M, d)`` whose patches are means of neighbours, at most 8 a side.

    Prefix tokens stay as they are, and so does an image whose patches form no square.
    """
    patches = tokens[:, num_prefix:]
    side = math.isqrt(patches.shape[1])
    if side <= _MAX_SIDE or side**2 != patches.shape[1]:
        return tokens
    # not len(patches), which would be a constant of an exported program
    grid = patches.mT.reshape(patches.shape[0], -1, side, side)  # (B, d, side, side)
    means = F.avg_pool2d(grid, -(-side // _MAX_SIDE), ceil_mode=True)
    return torch.cat([tokens[:, :num_prefix], means.flatten(2).mT], dim=1)
