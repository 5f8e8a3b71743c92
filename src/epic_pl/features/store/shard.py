"""Shards: safetensors files with some items of a store, written whole or not at all.

A shard of n items holds ``FIELD (n, *shape)`` for each field and ``digests (n, 16)``. Fields that
ragged stores keep token by token are ``(T, ...)``, the tokens of all items one after the other with
the token axis first, and ``lengths (n,)`` counts each item's. ``checksums`` has one number for each
of these, in the order of their names. A store's numbers are finite, since :func:`encode` refuses
others, and the checksums show that they are as they were written.

Shape legend: B items of a batch, N tokens of its longest item, T tokens of all its items together.
"""

import hashlib
import warnings
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from epic_pl.features.store.spec import DIGEST_BYTES, Field, StoreSpec
from epic_pl.utils.errors import CacheError
from epic_pl.utils.files import write_bytes

Digests = npt.NDArray[np.bytes_]
Tensors = dict[str, Tensor]
_NONE = torch.empty(0, dtype=torch.int64)
# path, size, time of change and name of each tensor that this process found sound
_SOUND: set[tuple[object, ...]] = set()


def digests_of(hashes: Iterable[str]) -> Digests:
    """Shorten item hashes to 16 bytes each."""
    joined = b"".join(hashlib.blake2b(h.encode(), digest_size=16).digest() for h in hashes)
    return np.frombuffer(joined, f"S{DIGEST_BYTES}")


def shard_name(digests: Digests) -> str:
    """The name of a file with these items: processes that plan the same shard write one file."""
    return f"shard-{hashlib.blake2b(digests.tobytes(), digest_size=8).hexdigest()}.safetensors"


def write_shard(path: Path, spec: StoreSpec, digests: Digests, batches: Sequence[Tensors]) -> None:
    """Write a shard of items with these digests, of which :func:`encode` gave the batches."""
    tensors = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    rows = digests.view(np.uint8).reshape(-1, DIGEST_BYTES)
    tensors["digests"] = torch.from_numpy(rows.copy())
    sums = torch.tensor([_checksum(spec, name, tensors[name]) for name in sorted(tensors)])
    write_bytes(path, save({**tensors, "checksums": sums}))


def _checksum(spec: StoreSpec, name: str, tensor: Tensor) -> int:
    """CRC-32 of a tensor's bytes, its name, and the store that it belongs to."""
    # twice as fast as SHA-256, and finds what disks and networks do to files
    start = zlib.crc32(f"{spec.key} {name}".encode())
    return zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, start)


def open_shard(
    path: Path, spec: StoreSpec, fields: Sequence[Field], wanted: Collection[bytes] = ()
) -> Tensors | None:
    """A shard's tensors, mapped into memory; None if it is missing, damaged or not wanted.

    Args:
        path: file of the shard.
        spec: description of the store.
        fields: fields whose numbers are verified, once in a process; digests and lengths always.
        wanted: digests of items; a shard that has none of them is not wanted. Empty wants all.
    """
    if not path.is_file():
        return None
    with suppress(OSError, SafetensorError):
        state = path, path.stat().st_size, path.stat().st_mtime_ns
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 no dict
        sums = tensors.pop("checksums", _NONE).flatten().tolist()
        if _fits(spec, tensors) and len(sums) == len(tensors):
            digests = tensors["digests"].numpy().view(f"S{DIGEST_BYTES}")[:, 0]
            if wanted and not any(digest in wanted for digest in digests.tolist()):
                return None
            verified = {"digests", "lengths", *(field.name for field in fields)}
            sound = path.name == shard_name(digests)  # else a copy would repeat another's items
            for name, checksum in zip(sorted(tensors), sums, strict=True):
                if name in verified and (*state, name) not in _SOUND:
                    sound = sound and _checksum(spec, name, tensors[name]) == checksum
                    _SOUND.update([(*state, name)] if sound else [])
            if sound:
                return tensors
    warnings.warn(
        f"{path} is damaged, so it is left out, and what is needed of it is encoded again. It can "
        "be removed.",
        stacklevel=1,  # of one place, so that a process says it once
    )
    return None


def _fits(spec: StoreSpec, tensors: Tensors) -> bool:
    """Whether names, types and shapes are those of the spec."""
    digests, lengths = (tensors.get(name, _NONE) for name in ("digests", "lengths"))
    items = len(digests) if digests.ndim else 0
    tokens = int(lengths.sum()) if lengths.dtype == torch.int64 else 0
    given = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    within = bool(((lengths >= 0) & (lengths <= tokens)).all())
    return given == spec.tensors(items, tokens) and within


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
            wrong = f"The field {field.name!r} of the item {name} is not finite as {spec.dtype}"
            raise CacheError(f"{wrong}: look at the item, or store bfloat16 or float32.")
    return stored
