import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from epic_pl.features.store.fill import StoreRequest, fill_stores
from epic_pl.features.store.reader import FeatureStore
from epic_pl.features.store.spec import Field, StoreSpec

LONGEST = 7
SMALL = 4 * 1024
FIELDS = {
    ragged: (Field("memory", (2, 3, LONGEST if ragged else 5, 8), 2), Field("pooled", (9,)))
    for ragged in (False, True)
}


class Items:
    """Items whose tensors follow from their hash alone, as an encoder's do."""

    def __init__(self, count: int, ragged: bool) -> None:
        self.hashes = [f"item-{number}" for number in range(count)]
        self.ragged = ragged
        self.asked: list[int] = []

    def length(self, name: str) -> int:
        return 1 + hashlib.sha256(name.encode()).digest()[0] % LONGEST if self.ragged else 5

    def produce(self, positions: Sequence[int]) -> tuple[dict[str, Tensor], Tensor | None]:
        self.asked += positions
        return self.padded([self.hashes[position] for position in positions])

    def padded(self, names: Sequence[str]) -> tuple[dict[str, Tensor], Tensor | None]:
        """One by one, the slow way; padding is NaN, which must never be looked at."""
        lengths = [self.length(name) for name in names]
        memory = torch.full((len(names), 2, 3, max(lengths), 8), float("nan"))
        pooled = torch.empty(len(names), 9)
        for row, (name, length) in enumerate(zip(names, lengths, strict=True)):
            seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4])
            generator = torch.Generator().manual_seed(seed)
            memory[row, :, :, :length] = torch.randn(2, 3, length, 8, generator=generator)
            pooled[row] = torch.randn(9, generator=generator)
        return {"memory": memory, "pooled": pooled}, torch.tensor(lengths) if self.ragged else None

    def spec(self, dtype: Any = "float32", **identity: object) -> StoreSpec:
        modality = "text" if self.ragged else "image"
        plain = {"level": "layers", **identity}
        return StoreSpec(modality, plain, FIELDS[self.ragged], dtype, "tiny")

    def build(
        self,
        root: Path,
        dtype: str = "float32",
        hashes: Sequence[str] = (),
        layers: Sequence[int] = (),
        **options: Any,
    ) -> FeatureStore:
        """A store of these items, with a handful in each shard; notes which are asked for."""
        self.hashes = list(hashes) or self.hashes
        self.asked.clear()
        spec = self.spec(dtype, **({"layers": [*layers]} if layers else {}))
        return build_one(root, spec, self.hashes, self.produce, **options)

    def assert_in(self, store: FeatureStore, names: Sequence[str]) -> None:
        """The store gives these items as they were produced."""
        memory = store.gather(store.find(names))["memory"]
        assert torch.equal(memory, self.padded(names)[0]["memory"].nan_to_num())


def build_one(
    root: Path, spec: StoreSpec, hashes: Sequence[str], produce: Any, **options: Any
) -> FeatureStore | None:
    """One store, quietly; None while items are missing."""
    options = {"progress": False, "batch_size": 3, "shard_bytes": SMALL, **options}
    stores = fill_stores(root, [StoreRequest(spec, hashes, produce)], **options)
    return stores[0] if stores else None
