"""Picture-statement pairs out of named pictures: the own name, or that of another."""

from collections.abc import Sequence

import numpy as np
from torch.utils.data import Dataset

from epic_pl.data.dataset import ImageTextDataset
from epic_pl.errors import DataError
from epic_pl.types import Reference, Sample

ENTAILMENT_CLASSES = ("not_entailment", "entailment")


class EntailmentPairs(Dataset[Sample]):
    """Pictures with a statement each, half of them true, drawn anew every epoch.

    With probability 1/2 the statement is the picture's own name (label 1, entailment), else that of
    another picture of this dataset, uniformly among those whose name differs (label 0). The draw
    depends on (seed, epoch, index) only: it is the same on any worker, on any rank, and after a
    restart.

    Args:
        pictures: one row a picture.
        names: name of each picture, in the rows' order.
        pairs_per_picture: pairs of each picture in an epoch.
        seed: of the draw, and of the pictures' augmentation.

    Raises:
        DataError: fewer than two different names.
    """

    def __init__(
        self,
        pictures: ImageTextDataset,
        names: Sequence[str],
        pairs_per_picture: int = 1,
        *,
        seed: int = 0,
    ) -> None:
        _check_names(names)
        self.pictures = pictures
        self.names = names
        self.pairs_per_picture = pairs_per_picture
        self.seed = seed
        self.epoch = 0

    @property
    def seed(self) -> int:
        """Of the draw and of the pictures' augmentation."""
        return self.pictures.seed

    @seed.setter
    def seed(self, seed: int) -> None:
        self.pictures.seed = seed

    def __len__(self) -> int:
        return len(self.pictures) * self.pairs_per_picture

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose statements and augmentations are drawn."""
        self.epoch = epoch
        self.pictures.set_epoch(epoch)

    def pair(self, index: int) -> tuple[str, int]:
        """Statement and label of a row in this epoch, without reading its picture."""
        rng = np.random.default_rng((self.seed, self.epoch, index))
        label = int(rng.integers(2))
        own = index // self.pairs_per_picture
        return self.names[own] if label else _other_name(self.names, own, rng), label

    def reference(self, index: int) -> Reference:
        """A row of this epoch without reading its picture."""
        row, number = divmod(index, self.pairs_per_picture)
        reference = self.pictures.reference(row)
        reference["text"], reference["label"] = self.pair(index)
        if self.pairs_per_picture > 1:
            reference["sample_id"] += f"#{number}"
        return reference

    def distinct(self) -> tuple[list[str], list[str]]:
        """The different picture paths and the different statements of any epoch."""
        return self.pictures.distinct()[0], list(dict.fromkeys(self.names))

    def __getitem__(self, index: int) -> Sample:
        row = self.reference(index)
        sample = self.pictures[index // self.pairs_per_picture]
        return {**row, "image": sample["image"], "picture": row["image"]}


def fixed_pairs(
    names: Sequence[str], pairs_per_picture: int, seed: Sequence[int]
) -> list[tuple[int, str, int]]:
    """Pairs for evaluation: (row, statement, label), by row, labels alternating.

    Exactly half are true: if the number of pairs is odd, the last one is left out.
    """
    _check_names(names)
    rng = np.random.default_rng(seed)
    pairs = []
    for index in range(len(names) * pairs_per_picture // 2 * 2):
        row, label = index // pairs_per_picture, index % 2
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
            f"False statements are names of other pictures, but {len(names)} pictures have "
            f"{len(set(names))} different names. Give the split more pictures."
        )
