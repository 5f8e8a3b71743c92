"""Pairs of image and statement, made of named images: the statement is a name, right or wrong."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from epic_pl.data.dataset import ImageTextDataset
from epic_pl.utils.errors import DataError
from epic_pl.utils.types import Reference

ENTAILMENT_CLASSES = ("not_entailment", "entailment")


class EntailmentPairs(ImageTextDataset):
    """Images with one statement each, which is drawn anew every epoch.

    A row of the table is an image, with its name as text. With probability 1/2 the statement is
    that name (label 1, entailment), else a name drawn uniformly from images with another name
    (label 0). The draw depends on (seed, epoch, index) only, so it is the same on any worker, on
    any rank, and after a restart.

    Args:
        *args: positional arguments of :class:`~epic_pl.data.dataset.ImageTextDataset`.
        **kwargs: keyword arguments of that class.

    Raises:
        DataError: if there are fewer than two different names.
    """

    draws_labels = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _check_names(self.table["text"].to_pylist())

    def reference(self, index: int) -> Reference:
        """The row ``index`` with this epoch's statement, and its image path."""
        reference = super().reference(index)
        rng = np.random.default_rng((self.seed, self.epoch, index))
        reference["label"] = int(rng.integers(2))
        if not reference["label"]:
            other = _other_row(self._columns["text"], index, rng)
            reference["text"] = super().reference(other)["text"]
        return reference


def fixed_pairs(
    names: Sequence[str], pairs_per_image: int, seed: Sequence[int]
) -> list[tuple[int, str, int]]:
    """Fixed pairs (row, statement, label) for evaluation, ordered by row, with alternating labels.

    Half of the pairs are true, since an odd last pair is left out.
    """
    _check_names(names)
    rng = np.random.default_rng(seed)
    pairs = []
    for index in range(len(names) * pairs_per_image // 2 * 2):
        row, label = index // pairs_per_image, index % 2
        pairs.append((row, names[row if label else _other_row(names, row, rng)], label))
    return pairs


def _other_row(names: Sequence[str], own: int, rng: np.random.Generator) -> int:
    # compare names, not rows, since two emoji are both called "man in tuxedo"
    while names[other := int(rng.integers(len(names)))] == names[own]:
        pass
    return other


def _check_names(names: Sequence[str]) -> None:
    if len(set(names)) < 2:
        raise DataError(
            f"False statements are names of other images, but {len(names)} images have "
            f"{len(set(names))} different names. Give the split more images."
        )
