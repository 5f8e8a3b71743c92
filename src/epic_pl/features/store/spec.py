"""What a feature store holds: its fields, how they are stored, and what they depend on."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from epic_pl.errors import CacheError

# part of every key, so that stores of another format are never read
FORMAT = 2

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


@dataclass(frozen=True)
class StoreSpec:
    """Everything that the bytes of a store depend on, beside its items.

    Attributes:
        kind: ``image`` or ``text``.
        identity: plain JSON values: encoder fingerprint, level, layers, pooling, preprocessing,
            views. Any change gives another key, hence another folder.
        fields: the tensors of each item.
        dtype: how they are stored. ``int8`` has one symmetric float16 scale for each vector along
            the last axis, so for each token, layer and head.
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
    def max_tokens(self) -> int:
        """The largest number of tokens of an item; 0 where no field has a token axis."""
        lengths = (f.shape[f.token_axis] for f in self.fields if f.token_axis is not None)
        return max(lengths, default=0)

    @property
    def key(self) -> str:
        """Sixteen hexadecimal digits that depend on everything but the encoder's name."""
        plain = self.to_json() | {"encoder": None}
        return hashlib.sha256(canonical(plain).encode()).hexdigest()[:16]

    def folder(self, root: Path) -> Path:
        """Path of the store below ``root``."""
        return root / f"{self.kind}-{self.key}"

    def to_json(self) -> dict[str, Any]:
        """The spec as plain JSON values, with the version of the format."""
        return {"format": FORMAT, **dataclasses.asdict(self), "identity": dict(self.identity)}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "StoreSpec":
        """Read what `to_json` gave.

        Raises:
            CacheError: it is of another format, or no spec.
        """
        try:
            if plain["format"] != FORMAT:
                raise CacheError(
                    f"The store was written in format {plain['format']}, this version reads "
                    f"{FORMAT}. Remove it with `epic-pl cache clear` and build it again."
                )
            fields = tuple(
                Field(field["name"], tuple(field["shape"]), field["token_axis"])
                for field in plain["fields"]
            )
            options = (plain["dtype"], bool(plain["ragged"]), plain["encoder"])
            return cls(plain["kind"], plain["identity"], fields, *options)
        except (KeyError, TypeError) as error:
            raise CacheError(f"This does not describe a feature store ({error!r}).") from error

    @classmethod
    def read(cls, path: Path) -> "StoreSpec":
        """Read a spec from a JSON file.

        Raises:
            CacheError: it is no spec, or of another format.
        """
        try:
            return cls.from_json(json.loads(path.read_text()))
        except (OSError, ValueError) as error:
            raise CacheError(f"{path} does not describe a feature store ({error}).") from error


def canonical(plain: Mapping[str, Any]) -> str:
    """JSON text that is equal for equal values, whatever their order."""
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)
