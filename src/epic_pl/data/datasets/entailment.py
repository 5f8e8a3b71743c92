"""Image-statement pairs out of named images: the own name, or that of another."""

from collections.abc import Sequence

import numpy as np
from torch.utils.data import Dataset

from epic_pl.data.dataset import ImageTextDataset
from epic_pl.errors import DataError
from epic_pl.types import Reference, Sample

ENTAILMENT_CLASSES = ("not_entailment", "entailment")


class EntailmentPairs(Dataset[Sample]):
    """Images with a statement each, half of them true, drawn anew every epoch.

    With probability 1/2 the statement is the image's own name (label 1, entailment), else that of
    another image of this dataset, uniformly among those whose name differs (label 0). The draw
    depends on (seed, epoch, index) only: it is the same on any worker, on any rank, and after a
    restart.

    Args:
        images: one row an image.
        names: name of each image, in the rows' order.
        pairs_per_image: pairs of each image in an epoch.
        seed: of the draw, and of the images' augmentation.

    Raises:
        DataError: fewer than two different names.
    """

    def __init__(
        self,
        images: ImageTextDataset,
        names: Sequence[str],
        pairs_per_image: int = 1,
        *,
        seed: int = 0,
    ) -> None:
        _check_names(names)
        self.images = images
        self.names = names
        self.pairs_per_image = pairs_per_image
        self.seed = seed
        self.epoch = 0

    @property
    def seed(self) -> int:
        """Of the draw and of the images' augmentation."""
        return self.images.seed

    @seed.setter
    def seed(self, seed: int) -> None:
        self.images.seed = seed

    def __len__(self) -> int:
        return len(self.images) * self.pairs_per_image

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose statements and augmentations are drawn."""
        self.epoch = epoch
        self.images.set_epoch(epoch)

    def pair(self, index: int) -> tuple[str, int]:
        """Statement and label of a row in this epoch, without reading its image."""
        rng = np.random.default_rng((self.seed, self.epoch, index))
        label = int(rng.integers(2))
        own = index // self.pairs_per_image
        return self.names[own] if label else _other_name(self.names, own, rng), label

    def reference(self, index: int) -> Reference:
        """A row of this epoch without reading its image."""
        row, number = divmod(index, self.pairs_per_image)
        reference = self.images.reference(row)
        reference["text"], reference["label"] = self.pair(index)
        if self.pairs_per_image > 1:
            reference["sample_id"] += f"#{number}"
        return reference

    def distinct(self) -> tuple[list[str], list[str]]:
        """The different image paths and the different statements of any epoch."""
        return self.images.distinct()[0], list(dict.fromkeys(self.names))

    def __getitem__(self, index: int) -> Sample:
        row = self.reference(index)
        sample = self.images[index // self.pairs_per_image]
        return {**row, "image": sample["image"], "image_path": row["image"]}


def fixed_pairs(
    names: Sequence[str], pairs_per_image: int, seed: Sequence[int]
) -> list[tuple[int, str, int]]:
    """Pairs for evaluation: (row, statement, label), by row, labels alternating.

    Exactly half are true: if the number of pairs is odd, the last one is left out.
    """
    _check_names(names)
    rng = np.random.default_rng(seed)
    pairs = []
    for index in range(len(names) * pairs_per_image // 2 * 2):
        row, label = index // pairs_per_image, index % 2
        pairs.append((row, names[row] if label else _other_name(names, row, rng), label))
    return pairs


def _other_name(names: Sequence[str], own: int, rng: np.random.Generator) -> str:
    # by name, not by row: two emoji are both called "man in tuxedo"
    while (other := names[int(rng.integers(len(names)))]) == names[own]:
        pass
    return other


def _check_names(names: Sequence[str]) -> None:
    if len(set(names)) < 2:
        raise DataError(
            f"False statements are names of other images, but {len(names)} images have "
            f"{len(set(names))} different names. Give the split more images."
        )
