"""The description of a feature store: its fields, their precision, and what they depend on."""

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from epic_pl.nn.towers import MEMORY, TOKENS
from epic_pl.utils.errors import CacheError
from epic_pl.utils.untrusted import require_regular
from epic_pl.utils.validate import check_types, fits

FEATURES_VERSION = 7
"""Part of every store's key. It is raised whenever an image's transform, a text's tokens, a field
that a tower stores or the files of a store change their meaning, so that older stores are not read.
"""
SPEC = "spec.json"
DIGEST_BYTES = 16

StoredDtype = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Field:
    """One tensor of every item.

    Attributes:
        name: a name of :data:`~epic_pl.nn.towers.TOKEN_AXES`.
        shape: of one item, without the batch axis; the token axis holds the largest length.
        token_axis: which axis of ``shape`` counts tokens, never the last one; None where there is
            none. Stores of texts cut it to each item's own length.
    """

    name: str
    shape: tuple[int, ...]
    token_axis: int | None = None

    def __post_init__(self) -> None:
        sizes = all(isinstance(size, int) and size >= 0 for size in self.shape)
        axes = (None, *range(len(self.shape) - 1))
        if not (sizes and isinstance(self.name, str) and self.token_axis in axes):
            raise ValueError(f"{self} is malformed")


@dataclass(frozen=True)
class StoreSpec:
    """Everything that the bytes of a store depend on, beside its items.

    A store of texts is ragged: it keeps each item's own number of tokens, without padding. All
    token axes have the same largest length.

    Attributes:
        modality: the modality of all items.
        provenance: plain JSON values: encoder fingerprint, level, layers, pooling, preprocessing.
            Any change gives another key, hence another folder.
        fields: the tensors of each item.
        dtype: how they are stored.
        encoder: name of the encoder, shown to the user; not part of the key.
    """

    modality: Literal["image", "text"]
    provenance: dict[str, Any]
    fields: tuple[Field, ...]
    dtype: StoredDtype = "float16"
    encoder: str = dataclasses.field(default="", compare=False)

    @property
    def key(self) -> str:
        """Sixteen hexadecimal digits that depend on everything but the encoder's name."""
        plain = json.dumps(self.to_json() | {"encoder": None}, sort_keys=True)
        return hashlib.sha256(plain.encode()).hexdigest()[:16]

    @property
    def first_layer(self) -> int:
        """The layer that stored tokens enter."""
        return int(self.provenance["layers"][0])

    @property
    def ragged(self) -> bool:
        """Whether items have different numbers of tokens."""
        return any(self.ragged_axis(field) is not None for field in self.fields)

    def ragged_axis(self, field: Field) -> int | None:
        """The token axis of a field that is stored token by token."""
        return field.token_axis if self.modality == "text" else None

    def folder(self, root: Path) -> Path:
        """Path of the store below ``root``."""
        return root / f"{self.modality}-{self.key}"

    def tensors(self, items: int, tokens: int) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Type and shape of each tensor of a shard with this many items and, in all, tokens."""
        tensors: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {
            "digests": (torch.uint8, (items, DIGEST_BYTES))
        }
        if self.ragged:
            tensors["lengths"] = torch.int64, (items,)
        for field in self.fields:
            axis, shape = self.ragged_axis(field), (items, *field.shape)
            if axis is not None:
                shape = (tokens, *field.shape[:axis], *field.shape[axis + 1 :])
            tensors[field.name] = getattr(torch, self.dtype), shape
        return tensors

    def nbytes(self, items: int, mean_tokens: float | None = None) -> int:
        """Bytes of items with this many tokens on average (ragged stores; None is the most)."""
        if mean_tokens is None:
            axes = ((field, self.ragged_axis(field)) for field in self.fields)
            mean_tokens = max((f.shape[axis] for f, axis in axes if axis is not None), default=0)
        tensors = self.tensors(items, round(items * mean_tokens)).values()
        return sum(dtype.itemsize * math.prod(shape) for dtype, shape in tensors)

    def serves(self, wanted: "StoreSpec") -> bool:
        """Whether a store of this spec has all fields of another, computed in the same way.

        So a linear probe reads what was stored for prompts: all fields but keys and values depend
        on the first of the layers alone.
        """

        def first_layer_key(spec: StoreSpec) -> str:
            provenance = {**spec.provenance, "layers": spec.provenance.get("layers", [])[:1]}
            return dataclasses.replace(spec, provenance=provenance, fields=()).key

        if self.key == wanted.key:
            return True
        kept = {field for field in self.fields if field.name != MEMORY}
        return kept.issuperset(wanted.fields) and first_layer_key(self) == first_layer_key(wanted)

    def leads_to(self, wanted: "StoreSpec") -> bool:
        """Whether another store's fields follow from this one's tokens, without the items."""

        def without_layers(spec: StoreSpec) -> dict[str, Any]:
            left_out = ("level", "layers")
            return {name: spec.provenance[name] for name in spec.provenance if name not in left_out}

        enough = ("float32",) if wanted.dtype == "float32" else ("float32", "float16")
        return (
            self.modality == wanted.modality
            and self.dtype in enough
            and any(field.name == TOKENS for field in self.fields)
            and without_layers(self) == without_layers(wanted)
            and self.first_layer <= wanted.first_layer
        )

    def to_json(self) -> dict[str, Any]:
        """The spec as plain JSON values, with :data:`FEATURES_VERSION`."""
        return {"version": FEATURES_VERSION, **dataclasses.asdict(self)}

    @classmethod
    def read(cls, folder: Path) -> "StoreSpec":
        """Read a store's spec.

        Raises:
            CacheError: there is none, one of another version, or not that of a folder of this name.
        """
        path = folder / SPEC
        try:
            require_regular(path)
            plain = json.loads(path.read_text(encoding="utf-8"))
            if plain.pop("version") != FEATURES_VERSION:
                raise ValueError("written by another version")
            plain["fields"] = tuple(
                Field(field["name"], tuple(field["shape"]), field["token_axis"])
                for field in plain["fields"]
            )
            spec = cls(**plain)
            check_types(spec)
            layers = spec.provenance.get("layers", [])
            # the folder's name is a hash of all other values
            if not fits(layers, list[int]) or spec.folder(folder.parent) != folder:
                raise ValueError("changed since it was written")
            return spec
        except Exception as error:  # a damaged file causes errors of any class
            raise CacheError(
                f"{path} does not describe a feature store ({error!r}): remove its folder."
            ) from error
