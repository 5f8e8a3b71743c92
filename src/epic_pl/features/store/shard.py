"""Shards: safetensors files with some items of a store, written whole or not at all.

A shard of n items holds ``FIELD (n, *shape)`` for each field and ``digests (n, 16)``. Fields that
ragged stores keep token by token are ``(T, ...)``, the tokens of all items one after the other with
the token axis first, and ``lengths (n,)`` counts each item's.

Shape legend: B items of a batch, N tokens of its longest item, T tokens of all its items together.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from epic_pl.features.store.spec import DIGEST_BYTES, StoreSpec
from epic_pl.utils.errors import CacheError
from epic_pl.utils.files import write_bytes

Digests = npt.NDArray[np.bytes_]
Tensors = dict[str, Tensor]
_NONE = torch.empty(0, dtype=torch.int64)


def digests_of(hashes: Iterable[str]) -> Digests:
    """Shorten item hashes to 16 bytes each."""
    joined = b"".join(hashlib.blake2b(h.encode(), digest_size=16).digest() for h in hashes)
    return np.frombuffer(joined, f"S{DIGEST_BYTES}")


def shard_name(digests: Digests) -> str:
    """The name of a file with these items: processes that plan the same shard write one file."""
    items = hashlib.blake2b(digests.tobytes(), digest_size=8).hexdigest()
    return f"shard-{items}.safetensors"


def write_shard(path: Path, digests: Digests, batches: Sequence[Tensors]) -> None:
    """Write a shard of items with these digests, of which :func:`encode` gave the batches."""
    tensors = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    rows = digests.view(np.uint8).reshape(-1, DIGEST_BYTES)
    write_bytes(path, save({**tensors, "digests": torch.from_numpy(rows.copy())}))


def open_shard(path: Path, spec: StoreSpec) -> Tensors | None:
    """A shard's tensors, mapped into memory; None if it is missing, damaged or of another spec."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 no dict
    except (OSError, SafetensorError):
        return None
    digests, lengths = (tensors.get(name, _NONE) for name in ("digests", "lengths"))
    items = len(digests) if digests.ndim else 0
    tokens = int(lengths.sum()) if lengths.dtype == torch.int64 else 0
    given = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    fits = given == spec.tensors(items, tokens) and ((lengths >= 0) & (lengths <= tokens)).all()
    return tensors if fits else None


def encode(
    spec: StoreSpec, tensors: Mapping[str, Tensor], lengths: Tensor | None, names: Sequence[str]
) -> Tensors:
    """Bring a batch into the form in which it is stored.

    Args:
        spec: description of the store.
        tensors: for each field ``(B, *shape)``, floating point; in ragged stores the token axis
            holds N, and what lies behind an item's length is ignored.
        lengths: (B,) tokens of each item, used in ragged stores only.
        names: names of the B items, for messages.

    Raises:
        CacheError: a number is not finite once stored.
    """
    stored: Tensors = {}
    items = torch.arange(len(names))
    token_items, mask = items, items
    if spec.ragged and lengths is not None:
        stored["lengths"] = lengths.long()
        token_items = items.repeat_interleave(stored["lengths"])  # (T,)
        mask = torch.arange(int(lengths.max())) < stored["lengths"][:, None]  # (B, N)
    for field in spec.fields:
        values, axis = tensors[field.name], spec.ragged_axis(field)
        if axis is not None:
            values = values.movedim(axis + 1, 1)[:, : mask.shape[1]][mask]  # (T, ...)
        stored[field.name] = values.to(getattr(torch, spec.dtype))
        finite = torch.isfinite(stored[field.name]).reshape(len(values), -1).all(1)
        if not finite.all():
            owners = items if axis is None else token_items
            name = names[int(owners[~finite][0])]
            raise CacheError(
                f"The field {field.name!r} of the item {name} is not finite once stored as "
                f"{spec.dtype}. Look at that item and the encoder's weights; if its numbers are "
                "only too large for float16, store bfloat16 or float32."
            )
    return stored
