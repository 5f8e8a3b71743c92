"""From tensors to records and back.

Shape legend: B items of a batch, N tokens of its longest item, T tokens of all its items together,
R rows of records (B, T, or B · N), w words of a record.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from epic_pl.errors import CacheError
from epic_pl.features.layout import WORD, Layout, Part, Record

Words = npt.NDArray[np.int64]


def encode(
    layout: Layout,
    tensors: Mapping[str, Tensor],
    lengths: npt.NDArray[np.int32] | None,
    names: Sequence[str],
) -> tuple[Words, Words]:
    """Pack a batch into records.

    Args:
        layout: of the store.
        tensors: for each field ``(B, *shape)``, floating point, on any device; in ragged stores
            the token axis holds N, and what lies behind an item's length is ignored.
        lengths: (B,) tokens of each item; ragged stores only.
        names: of the B items, for messages.

    Returns:
        Item records (B, w) and token records (T, w).

    Raises:
        CacheError: fields or shapes are not the spec's, or a number is not finite once stored.
    """
    wanted = {field.name for field in layout.spec.fields}
    if tensors.keys() != wanted:
        raise CacheError(
            f"The store wants the fields {sorted(wanted)} but was given {sorted(tensors)}."
        )
    owner = np.arange(len(names))
    items = _pack(
        layout.item, {n: _checked(layout, t, n, names) for n, t in tensors.items()}, owner, names
    )
    if not layout.spec.ragged:
        return items, np.empty((0, 0), np.int64)
    assert lengths is not None  # `_checked_lengths` of the writer
    mask = torch.arange(int(lengths.max())) < torch.from_numpy(lengths)[:, None]  # (B, N)
    flat: dict[str, Tensor] = {}
    for part in layout.token.parts:
        field, tensor = part.field, tensors[part.field.name]
        assert field.token_axis is not None
        by_token = tensor.movedim(field.token_axis + 1, 1)[:, : mask.shape[1]]  # (B, N, ...)
        if by_token.shape[1] < mask.shape[1]:
            raise CacheError(
                f"The field {field.name!r} came with {by_token.shape[1]} tokens, fewer than the "
                f"length {mask.shape[1]} that came with it."
            )
        flat[field.name] = by_token[mask.to(by_token.device)]  # (T, ...)
    return items, _pack(layout.token, flat, np.repeat(owner, lengths), names)


def decode(part: Part, raw: Tensor) -> Tensor:
    """Look at words ``(R, part.words)`` int64 as numbers ``(R, *part.shape)``; no copy."""
    numbers = raw.view(part.dtype)[:, : part.count]
    return numbers.view(-1, *part.shape)


def _checked(layout: Layout, tensor: Tensor, name: str, names: Sequence[str]) -> Tensor:
    field = next(field for field in layout.spec.fields if field.name == name)
    expected = [len(names), *field.shape]
    if layout.spec.ragged and field.token_axis is not None and tensor.ndim == len(expected):
        longest = tensor.shape[field.token_axis + 1]
        expected[field.token_axis + 1] = min(longest, expected[field.token_axis + 1])
    if list(tensor.shape) != expected or not tensor.is_floating_point():
        raise CacheError(
            f"The field {name!r} should be floating point and of shape {tuple(expected)} but came "
            f"as {tensor.dtype} of shape {tuple(tensor.shape)}."
        )
    return tensor


def _pack(
    record: Record,
    tensors: Mapping[str, Tensor],
    owner: npt.NDArray[np.int64],
    names: Sequence[str],
) -> Words:
    rows = np.zeros((len(owner), record.nbytes), np.uint8)
    for part in record.parts:
        if part.role == "scale":
            continue
        stored, scale = _store(part, tensors[part.field.name].detach())
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
            _place(rows, next(p for p in record.parts if p.start == part.stop), scale)
    return rows.view(np.int64)


def _store(part: Part, values: Tensor) -> tuple[Tensor, Tensor | None]:
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
