"""Pictures and texts as items of a feature cache.

Shape legend: B batch, N tokens.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from epic_pl.data import ImageTextDataModule
from epic_pl.data.dataset import ImageTextDataset
from epic_pl.data.transforms import build_image_transform
from epic_pl.features import Kind
from epic_pl.features.dataset import PictureDigests, PictureKey, text_digest, tokenizer_digest
from epic_pl.features.items import CacheOptions, Items
from epic_pl.module import EPICModule


class Pictures(Items[PictureKey]):
    """Pictures, each by itself or as an augmented view of a training picture."""

    kind: Kind = "image"
    blank = PictureKey("", "", -1)

    def __init__(
        self, options: CacheOptions, module: EPICModule, data: ImageTextDataModule, digests: Path
    ) -> None:
        super().__init__(options, module, data)
        self._digests = PictureDigests(digests)
        self._datasets: dict[tuple[str, bool], ImageTextDataset] = {}

    def add(self, dataset: ImageTextDataset, views: int) -> Iterator[PictureKey]:
        """Register a split and give the keys of its pictures."""
        self.register(dataset, views)
        root = str(dataset.image_root)
        for path in dataset.distinct()[0]:
            for view in range(views) if views else (-1,):
                yield PictureKey(root, path, view)

    def register(self, dataset: ImageTextDataset, views: int) -> None:
        """Read pictures from a split: ``views`` augmented ones of each, or as evaluation sees it.

        Without views, the split's pictures are transformed as for evaluation from here on.
        """
        if views == 0:
            dataset.transform = build_image_transform(self.data.image_preprocessing, train=False)
        self._datasets[str(dataset.image_root), views > 0] = dataset

    def hashes(self, keys: Sequence[PictureKey]) -> list[str]:
        """SHA-256 of the file, and the view."""
        return [
            "blank" if key == self.blank else f"{self._digests.one(key.root, key.path)}/{key.view}"
            for key in keys
        ]

    def remember(self) -> None:
        """Keep the files' digests."""
        self._digests.save()

    def _inputs(self, keys: Sequence[PictureKey]) -> tuple[Tensor, None]:
        # random transforms are seeded through global states, which threads would share
        random = any(key.view >= 0 for key in keys)
        with ThreadPoolExecutor(1 if random else self.options.threads) as pool:
            pixels = torch.stack(list(pool.map(self._pixels, keys)))  # (B, 3, H, W)
        return pixels.to(self.module.device), None

    def _pixels(self, key: PictureKey) -> Tensor:
        if key == self.blank:
            size = self.data.image_preprocessing.size
            return torch.zeros(3, size, size)
        return self._datasets[key.root, key.view >= 0].picture(key.path, key.view)

    def _preparation(self) -> dict[str, Any]:
        views = self.options.views > 0
        return {
            "preprocessing": self.data.image_preprocessing.to_dict(),
            "augment": self.data.augment if views else "none",
            "seed": self.data.seed if views else 0,
        }


class Texts(Items[str]):
    """Texts, tokenised."""

    kind: Kind = "text"
    blank = ""

    def hashes(self, keys: Sequence[str]) -> list[str]:
        """SHA-256 of the characters."""
        return [text_digest(text) for text in keys]

    def _inputs(self, keys: Sequence[str]) -> tuple[Tensor, Tensor]:
        tokens = self.data.collator.tokenize(keys)
        device = self.module.device
        return tokens["input_ids"].to(device), tokens["attention_mask"].bool().to(device)

    def _preparation(self) -> dict[str, Any]:
        return {
            "tokenizer": tokenizer_digest(self.data.collator.tokenizer),
            "max_tokens": self.data.collator.max_text_tokens,
        }
