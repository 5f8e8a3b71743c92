"""Where each number of an item lies, and the way from tensors to records and back.

Records consist of 8-byte words, the same on disk and in memory. The item record holds the fields
that have the same size in every item; the token record, in ragged stores only, holds what each
token has, all fields side by side. A shard is then two matrices, (items, words) and (tokens,
words), from which whole batches are picked row by row.

Shape legend: B items of a batch, N tokens of its longest item, T tokens of all its items together,
R rows of records (B, T, or B · N), w words of a record.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from epic_pl.errors import CacheError
from epic_pl.features.store.spec import Field, StoreSpec

WORD = 8  # bytes

TORCH_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "int8": torch.int8,
}
Words = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Part:
    """A stretch of a record: a field's numbers, or the scales of its int8 vectors.

    Attributes:
        field: the field it belongs to.
        dtype: of the stored numbers.
        shape: of the stretch; in token records without the token axis.
        start: first word in the record.
        is_scale: whether these are scales, which follow their values.
    """

    field: Field
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    is_scale: bool = False

    @property
    def count(self) -> int:
        """Numbers in the stretch."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes, without the padding to a whole word."""
        return self.count * self.dtype.itemsize

    @property
    def words(self) -> int:
        """Number of words."""
        return -(-self.nbytes // WORD)

    @property
    def stop(self) -> int:
        """First word behind the stretch."""
        return self.start + self.words

    def decode(self, raw: Tensor) -> Tensor:
        """View words ``(R, words)`` int64 as numbers ``(R, *shape)``."""
        return raw.view(self.dtype)[:, : self.count].view(-1, *self.shape)


@dataclass(frozen=True)
class Record:
    """Parts, one after the other."""

    parts: tuple[Part, ...]

    @classmethod
    def of(cls, spec: StoreSpec, fields: Iterable[tuple[Field, tuple[int, ...]]]) -> "Record":
        """Lay out fields with their shapes in the record."""
        parts: list[Part] = []
        start = 0
        for field, shape in fields:
            parts.append(Part(field, TORCH_DTYPES[spec.dtype], shape, start))
            if spec.dtype == "int8":
                parts.append(Part(field, torch.float16, shape[:-1], parts[-1].stop, is_scale=True))
            start = parts[-1].stop
        return cls(tuple(parts))

    @property
    def words(self) -> int:
        """Words of a record; 0 where there are no parts."""
        return self.parts[-1].stop if self.parts else 0

    @property
    def nbytes(self) -> int:
        """Bytes of a record."""
        return self.words * WORD


@dataclass(frozen=True)
class Layout:
    """Both records of a store."""

    spec: StoreSpec
    item: Record
    token: Record

    @classmethod
    def of(cls, spec: StoreSpec) -> "Layout":
        """Lay out a store's fields."""
        by_token = [f for f in spec.fields if spec.ragged and f.token_axis is not None]
        by_item = [f for f in spec.fields if f not in by_token]
        return cls(
            spec,
            Record.of(spec, ((field, field.shape) for field in by_item)),
            Record.of(spec, ((field, _without_tokens(field)) for field in by_token)),
        )

    def bytes_per_item(self, tokens: float | None = None) -> int:
        """Bytes of an item with this many tokens (ragged stores; default the most)."""
        tokens = self.spec.max_tokens if tokens is None else tokens
        return self.item.nbytes + math.ceil(self.token.nbytes * tokens)

    def only(self, names: Collection[str]) -> "Layout":
        """The parts of some fields alone."""
        item, token = (
            Record(tuple(part for part in record.parts if part.field.name in names))
            for record in (self.item, self.token)
        )
        return Layout(self.spec, item, token)

    def encode(
        self,
        tensors: Mapping[str, Tensor],
        lengths: npt.NDArray[np.int32] | None,
        names: Sequence[str],
    ) -> tuple[Words, Words]:
        """Pack a batch into item records (B, w) and token records (T, w).

        Args:
            tensors: for each field ``(B, *shape)``, floating point, on any device; in ragged
                stores the token axis holds N, and what lies behind an item's length is ignored.
            lengths: (B,) tokens of each item; ragged stores only.
            names: of the B items, for messages.

        Raises:
            CacheError: a number is not finite once stored.
        """
        owner = np.arange(len(names))
        items = _pack(self.item, tensors, owner, names)
        if lengths is None:
            return items, np.empty((0, 0), np.int64)
        mask = torch.arange(int(lengths.max())) < torch.from_numpy(lengths)[:, None]  # (B, N)
        flat: dict[str, Tensor] = {}
        for field in (part.field for part in self.token.parts):
            assert field.token_axis is not None
            by_token = tensors[field.name].movedim(field.token_axis + 1, 1)[:, : mask.shape[1]]
            flat[field.name] = by_token[mask.to(by_token.device)]  # (T, ...)
        return items, _pack(self.token, flat, np.repeat(owner, lengths), names)


def _without_tokens(field: Field) -> tuple[int, ...]:
    return tuple(size for axis, size in enumerate(field.shape) if axis != field.token_axis)


def _pack(
    record: Record,
    tensors: Mapping[str, Tensor],
    owner: npt.NDArray[np.int64],
    names: Sequence[str],
) -> Words:
    rows = np.zeros((len(owner), record.nbytes), np.uint8)
    for number, part in enumerate(record.parts):
        if part.is_scale:
            continue
        stored, scale = _quantized(part, tensors[part.field.name].detach())
        finite = torch.isfinite(stored if scale is None else scale).reshape(len(owner), -1)
        if not finite.all():
            row = int((~finite.all(1)).nonzero()[0])
            raise CacheError(
                f"The field {part.field.name!r} of the item {names[owner[row]]} is not finite "
                f"once stored as {str(part.dtype).removeprefix('torch.')}. Look at that item and "
                "the encoder's weights; if its numbers are only too large for float16, store "
                "bfloat16 or float32."
            )
        _place(rows, part, stored)
        if scale is not None:
            _place(rows, record.parts[number + 1], scale)
    return rows.view(np.int64)


def _quantized(part: Part, values: Tensor) -> tuple[Tensor, Tensor | None]:
    """Cast, on the tensor's own device; the second tensor is the scale of int8."""
    if part.dtype != torch.int8:
        return values.to(part.dtype), None
    values = values.float()
    largest = values.abs().amax(-1)
    scale = (largest / 127).half()
    # rounded up to the next float16, so that the largest number is never clipped
    scale = (scale.view(torch.int16) + (scale.float() * 127 < largest)).view(torch.float16)
    steps = values / scale.float().clamp(min=torch.finfo(torch.float32).tiny).unsqueeze(-1)
    return steps.round().clamp(-127, 127).to(torch.int8), scale


def _place(rows: npt.NDArray[np.uint8], part: Part, stored: Tensor) -> None:
    flat = stored.reshape(len(rows), part.count).cpu().contiguous()
    start = part.start * WORD
    rows[:, start : start + part.nbytes] = flat.view(torch.uint8).numpy()
