"""Where each number of an item lies: records of 8-byte words, the same on disk and in memory.

A store has two kinds of records. The item record holds what every item has in the same size; the
token record, in ragged stores only, what each token has, all fields side by side. A shard is then
two matrices, (items, words) and (tokens, words), from which whole batches are picked row by row.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch

from epic_pl.features.spec import Field, StoreSpec

WORD = 8  # bytes

TORCH_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "int8": torch.int8,
}


@dataclass(frozen=True)
class Part:
    """A stretch of a record: a field's numbers, or the scales of its int8 vectors.

    Attributes:
        field: whose it is.
        role: ``values`` or ``scale``.
        dtype: of the stored numbers.
        shape: of the stretch; in token records without the token axis.
        start: first word in the record.
    """

    field: Field
    role: Literal["values", "scale"]
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int

    @property
    def count(self) -> int:
        """Numbers in the stretch."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes, without the fill up to a whole word."""
        return self.count * self.dtype.itemsize

    @property
    def words(self) -> int:
        """Words that the stretch takes."""
        return -(-self.nbytes // WORD)

    @property
    def stop(self) -> int:
        """First word behind the stretch."""
        return self.start + self.words


@dataclass(frozen=True)
class Record:
    """Parts, one after the other."""

    parts: tuple[Part, ...]

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
            _record(spec, ((field, field.shape) for field in by_item)),
            _record(spec, ((field, without_tokens(field)) for field in by_token)),
        )

    def bytes_per_item(self, tokens: float | None = None) -> int:
        """Bytes of an item of so many tokens (ragged; default the most)."""
        tokens = self.spec.max_tokens if tokens is None else tokens
        return self.item.nbytes + math.ceil(self.token.nbytes * tokens)


def without_tokens(field: Field) -> tuple[int, ...]:
    """The shape of one token of a field."""
    return tuple(size for axis, size in enumerate(field.shape) if axis != field.token_axis)


def _record(spec: StoreSpec, fields: Iterable[tuple[Field, tuple[int, ...]]]) -> Record:
    parts: list[Part] = []
    start = 0
    dtype = TORCH_DTYPES[spec.dtype]
    for field, shape in fields:
        parts.append(Part(field, "values", dtype, shape, start))
        start = parts[-1].stop
        if spec.dtype == "int8":
            parts.append(Part(field, "scale", torch.float16, shape[:-1], start))
            start = parts[-1].stop
    return Record(tuple(parts))
