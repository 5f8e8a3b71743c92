"""What a feature store holds: its fields, how they are stored, and what they depend on."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from epic_pl.errors import CacheError

# part of every key: a store of another format is another store
FORMAT = 1

Kind = Literal["image", "text"]
StoredDtype = Literal["float32", "bfloat16", "float16", "int8"]
JSON = None | bool | int | float | str | list["JSON"] | dict[str, "JSON"]


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
        if not self.shape or min(self.shape) < 1:
            raise CacheError(f"The field {self.name!r} cannot have the shape {self.shape}.")
        if self.token_axis is not None and not 0 <= self.token_axis < len(self.shape):
            raise CacheError(
                f"The field {self.name!r} has no axis {self.token_axis} in its shape {self.shape} "
                "(token_axis counts from 0, without the batch axis)."
            )

    @property
    def count(self) -> int:
        """Numbers in the largest item."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class StoreSpec:
    """Everything that the bytes of a store depend on, beside its items.

    Attributes:
        kind: ``image`` or ``text``.
        identity: plain JSON values: encoder name and fingerprint, level, layers, pooling,
            preprocessing, views. Any change gives another key, so another folder. ``encoder`` and
            ``level`` are shown to the user where they are present.
        fields: the tensors of each item.
        dtype: how they are stored. ``int8`` has one symmetric float16 scale for each vector along
            the last axis, so for each token, layer and head.
        ragged: store each item's own number of tokens, no padding.
    """

    kind: Kind
    identity: Mapping[str, Any]
    fields: tuple[Field, ...]
    dtype: StoredDtype = "float16"
    ragged: bool = False

    def __post_init__(self) -> None:
        names = [field.name for field in self.fields]
        if not names or len(set(names)) < len(names) or "mask" in names:
            raise CacheError(
                f"The fields of a store need distinct names other than 'mask', not {names}."
            )
        for option, value, known in (
            ("kind", self.kind, get_args(Kind)),
            ("dtype", self.dtype, get_args(StoredDtype)),
        ):
            if value not in known:
                raise CacheError(f"A store's {option} is one of {', '.join(known)}, not {value!r}.")
        if self.ragged:
            self._check_tokens()
        try:
            canonical(self.to_json())
        except (TypeError, ValueError) as error:
            raise CacheError(
                f"The identity of a store takes plain JSON values only ({error})."
            ) from error

    def _check_tokens(self) -> None:
        if len({length for length in self._token_lengths()}) != 1:
            raise CacheError(
                "A ragged store needs one largest length, shared by all fields that have a token "
                f"axis, not {sorted(self._token_lengths())}."
            )
        for field in self.fields:
            if self.dtype == "int8" and field.token_axis == len(field.shape) - 1:
                raise CacheError(
                    f"The field {field.name!r} has its tokens on the last axis, along which int8 "
                    "is scaled: put the token axis first, or store another dtype."
                )

    def _token_lengths(self) -> Iterator[int]:
        for field in self.fields:
            if field.token_axis is not None:
                yield field.shape[field.token_axis]

    @property
    def max_tokens(self) -> int:
        """The largest number of tokens of an item; 0 where no field has a token axis."""
        return max(self._token_lengths(), default=0)

    @property
    def key(self) -> str:
        """Sixteen hexadecimal digits that change with everything above."""
        return hashlib.sha256(canonical(self.to_json()).encode()).hexdigest()[:16]

    def folder(self, root: Path) -> Path:
        """Where the store lies below ``root``."""
        return root / f"{self.kind}-{self.key}"

    def to_json(self) -> dict[str, Any]:
        """The spec as plain JSON values, with the version of the format."""
        return {
            "format": FORMAT,
            "kind": self.kind,
            "identity": dict(self.identity),
            "fields": [
                {"name": field.name, "shape": list(field.shape), "token_axis": field.token_axis}
                for field in self.fields
            ],
            "dtype": self.dtype,
            "ragged": self.ragged,
        }

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
            return cls(
                plain["kind"], plain["identity"], fields, plain["dtype"], bool(plain["ragged"])
            )
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


def differences(one: Mapping[str, Any], other: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Name the entries in which two JSON objects differ, as ``identity.level: 'a', not 'b'``."""
    found: list[str] = []
    for name in sorted({*one, *other}):
        mine, theirs = one.get(name), other.get(name)
        if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
            found += differences(
                cast(Mapping[str, Any], mine), cast(Mapping[str, Any], theirs), f"{prefix}{name}."
            )
        elif canonical({"value": mine}) != canonical({"value": theirs}):
            found.append(f"{prefix}{name}: {mine!r}, not {theirs!r}")
    return found
