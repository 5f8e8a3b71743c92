"""The description of a feature store: its fields, their precision, and what they depend on."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from epic_pl.errors import CacheError, ConfigError
from epic_pl.features.store.int8 import SCALE
from epic_pl.untrusted import require_regular
from epic_pl.validate import check_choices

# part of every key, so that stores of another format are never read
FORMAT = 3
SPEC = "spec.json"
DIGEST = np.dtype("S16")
_MALFORMED = (ValueError, LookupError, TypeError, AttributeError)

Digests = npt.NDArray[np.bytes_]
Kind = Literal["image", "text"]
StoredDtype = Literal["float32", "bfloat16", "float16", "int8"]


@dataclass(frozen=True)
class Field:
    """One tensor of every item.

    Attributes:
        name: for example ``memory`` or ``pooled``.
        shape: of one item, without the batch axis; the token axis holds the largest length.
        token_axis: which axis of ``shape`` counts tokens; None where there is none. Only ragged
            stores cut it to each item's own length.
    """

    name: str
    shape: tuple[int, ...]
    token_axis: int | None = None

    def __post_init__(self) -> None:
        sizes = all(isinstance(size, int) and size >= 0 for size in self.shape)
        axes = (None, *range(len(self.shape)))
        if not (sizes and isinstance(self.name, str) and self.token_axis in axes):
            raise ValueError(f"{self} is malformed")


@dataclass(frozen=True)
class StoreSpec:
    """Everything that the bytes of a store depend on, beside its items.

    Attributes:
        kind: ``image`` or ``text``.
        identity: plain JSON values: encoder fingerprint, level, layers, pooling, preprocessing.
            Any change gives another key, hence another folder.
        fields: the tensors of each item.
        dtype: how they are stored.
        ragged: store each item's own number of tokens, without padding. All token axes have the
            same largest length.
        encoder: name of the encoder, shown to the user; no part of the key.
    """

    kind: Kind
    identity: Mapping[str, Any]
    fields: tuple[Field, ...]
    dtype: StoredDtype = "float16"
    ragged: bool = False
    encoder: str = dataclasses.field(default="", compare=False)

    @property
    def key(self) -> str:
        """Sixteen hexadecimal digits that depend on everything but the encoder's name."""
        plain = self.to_json() | {"encoder": None}
        return hashlib.sha256(canonical(plain).encode()).hexdigest()[:16]

    def folder(self, root: Path) -> Path:
        """Path of the store below ``root``."""
        return root / f"{self.kind}-{self.key}"

    def ragged_axis(self, field: Field) -> int | None:
        """The token axis of a field that is stored token by token, without padding."""
        return field.token_axis if self.ragged else None

    def tensors(self) -> dict[Field, torch.dtype]:
        """What a shard has of each item: the fields, and with int8 their scales."""
        stored = dict.fromkeys(self.fields, getattr(torch, self.dtype))
        if self.dtype == "int8":
            for field in self.fields:
                scale = Field(field.name + SCALE, field.shape[:-1], field.token_axis)
                stored[scale] = torch.float16
        return stored

    def bytes_per_item(self, tokens: float | None = None) -> float:
        """Bytes of an item with this many tokens (ragged stores; default the most)."""
        total = float(DIGEST.itemsize)
        for field, dtype in self.tensors().items():
            axis, nbytes = self.ragged_axis(field), math.prod(field.shape) * dtype.itemsize
            share = 1 if tokens is None or axis is None else tokens / field.shape[axis]
            total += nbytes * share
        return total

    def serves(self, wanted: "StoreSpec") -> bool:
        """Whether a store of this spec has all fields of another, computed in the same way.

        So a linear probe reads what was stored for prompts: fields without tokens depend on the
        first of the layers alone. Fields with tokens need the very same spec.
        """

        def made(spec: StoreSpec) -> tuple[Any, ...]:
            identity = {**spec.identity, "layers": spec.identity.get("layers", [])[:1]}
            return spec.kind, spec.dtype, canonical(identity)

        shared = {field for field in self.fields if field.token_axis is None}
        has_all = made(self) == made(wanted) and shared.issuperset(wanted.fields)
        return has_all or self.key == wanted.key

    def to_json(self) -> dict[str, Any]:
        """The spec as plain JSON values, with the version of the format."""
        return {"format": FORMAT, **dataclasses.asdict(self), "identity": dict(self.identity)}

    @classmethod
    def read(cls, folder: Path) -> "StoreSpec":
        """Read a store's spec.

        Raises:
            CacheError: there is none, one of another format, or not that of a folder of this name.
        """
        path = folder / SPEC
        try:
            require_regular(path)
            plain = json.loads(path.read_text(encoding="utf-8"))
            if plain.pop("format") != FORMAT:
                raise ValueError("written in another format")
            plain["fields"] = tuple(
                Field(field["name"], tuple(field["shape"]), field["token_axis"])
                for field in plain["fields"]
            )
            spec = cls(**plain)
            check_choices(spec)
            spec.tensors()  # an axis that scales lack
            # the key is a hash of all other values, which so are what they were when written
            typed = isinstance(spec.encoder, str) and isinstance(spec.identity, dict)
            typed = typed and isinstance(spec.identity.get("layers", []), list)
            if spec.folder(folder.parent) != folder or not typed:
                raise ValueError("changed since it was written")
            return spec
        except (ConfigError, OSError, RecursionError, *_MALFORMED) as error:
            raise CacheError(
                f"{path} does not describe a feature store ({error!r}). Remove its "
                "folder and build it again with `epic-pl cache build`."
            ) from error


def canonical(plain: Mapping[str, Any]) -> str:
    """JSON text that is equal for equal values, whatever their order."""
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)
