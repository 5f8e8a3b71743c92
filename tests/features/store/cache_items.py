import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from epic_pl.features.store.build import Wanted, build
from epic_pl.features.store.reader import FeatureStore
from epic_pl.features.store.spec import Field, StoreSpec

LONGEST = 7
FIXED_FIELDS = (Field("memory", (2, 3, 5, 8), 2), Field("pooled", (9,)))
RAGGED_FIELDS = (Field("memory", (2, 3, LONGEST, 8), 2), Field("pooled", (9,)))


class Items:
    """Items whose tensors follow from their hash alone, as an encoder's do."""

    def __init__(self, count: int, ragged: bool, prefix: str = "item") -> None:
        self.hashes = [f"{prefix}-{number}" for number in range(count)]
        self.ragged = ragged
        self.asked: list[int] = []

    def length(self, name: str) -> int:
        return 1 + hashlib.sha256(name.encode()).digest()[0] % LONGEST

    def one(self, name: str) -> dict[str, Tensor]:
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4])
        generator = torch.Generator().manual_seed(seed)
        tokens = self.length(name) if self.ragged else 5
        return {
            "memory": torch.randn(2, 3, tokens, 8, generator=generator),
            "pooled": torch.randn(9, generator=generator),
        }

    def produce(self, positions: Sequence[int]) -> tuple[dict[str, Tensor], Tensor | None]:
        self.asked += positions
        return self.padded([self.hashes[position] for position in positions])

    def padded(self, names: Sequence[str]) -> tuple[dict[str, Tensor], Tensor | None]:
        """One by one, the slow way; padding is NaN, which must never be looked at."""
        ones = [self.one(name) for name in names]
        pooled = torch.stack([one["pooled"] for one in ones])
        lengths = [one["memory"].shape[2] for one in ones]
        memory = torch.full((len(names), 2, 3, max(lengths), 8), float("nan"))
        for row, one in enumerate(ones):
            memory[row, :, :, : lengths[row]] = one["memory"]
        return {"memory": memory, "pooled": pooled}, torch.tensor(lengths) if self.ragged else None

    def spec(self, dtype: str = "float32", **identity: object) -> StoreSpec:
        return StoreSpec(
            "text" if self.ragged else "image",
            {"level": "layers", **identity},
            RAGGED_FIELDS if self.ragged else FIXED_FIELDS,
            dtype,  # type: ignore[arg-type]
            self.ragged,
            "tiny",
        )

    def build(self, root: Path, dtype: str = "float32", **options: object) -> FeatureStore:
        return build_one(root, self.spec(dtype), self.hashes, self.produce, **options)


def build_one(
    root: Path, spec: StoreSpec, hashes: Sequence[str], produce: object, **options: object
) -> FeatureStore:
    """One store, quietly."""
    wanted = Wanted(spec, hashes, produce)  # type: ignore[arg-type]
    return build(root, [wanted], **{"progress": False, **options})[0]  # type: ignore[arg-type]
