"""Styles: visual entailment where training and test show the same things, drawn by two vendors.

Images: OpenMoji, CC BY-SA 4.0, https://openmoji.org, and Noto Emoji, Google, Apache-2.0: to be
credited wherever they are shown.
"""

from functools import cached_property
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import Dataset

from epic_pl.assets import (
    NOTO_ATTRIBUTION,
    OPENMOJI_ATTRIBUTION,
    Emoji,
    fetch_noto,
    fetch_openmoji,
    load_emoji,
)
from epic_pl.data.datamodule import ImageTextDataModule, Split, check_at_least
from epic_pl.data.datasets.entailment import ENTAILMENT_CLASSES, EntailmentPairs
from epic_pl.data.datasets.openmoji import LEFT_OUT, emoji_dataset, fixed_emoji_pairs, name_of
from epic_pl.data.splits import stratified_split
from epic_pl.data.transforms import ImageTransform
from epic_pl.types import Sample

_EVAL_PAIRS = {"val": 8, "test": 4}  # an image; 4 make about 6,500 test pairs


class StylesDataModule(ImageTextDataModule):
    """Whether a statement is the image's name; trained on OpenMoji, tested on Noto's drawings.

    Training has 95% of the OpenMoji images, validation 5%, stratified by category. Test shows
    the 1,629 emoji of both in Noto's drawings, so nearly all names were seen in training. Pairs are
    those of :class:`~epic_pl.data.datasets.openmoji.OpenMojiDataModule`: drawn anew every epoch for
    training, fixed and half of them true for validation (8 an image) and test (4 an image).

    Args:
        split_seed: which emoji are validated; apart from ``seed``.
        **kwargs: as for :class:`~epic_pl.data.datamodule.ImageTextDataModule`.
    """

    def __init__(self, *, split_seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_at_least(0, split_seed=split_seed)
        self.split_seed = split_seed

    @property
    def class_names(self) -> list[str]:
        """Not_entailment and entailment."""
        return list(ENTAILMENT_CLASSES)

    @cached_property
    def _emoji(self) -> dict[str, list[Emoji]]:
        """The emoji of each split."""
        emoji = [each for each in load_emoji() if each.category not in LEFT_OUT]
        codes = np.unique([each.category for each in emoji], return_inverse=True)[1]
        rows = stratified_split(codes, {"train": 0.95, "val": 0.05}, self.split_seed)
        return {split: [emoji[row] for row in part] for split, part in rows.items()} | {
            "test": emoji
        }

    def prepare_data(self) -> None:
        """Fetch and draw both vendors' images, once a machine, and show their attribution."""
        super().prepare_data()
        for fetch in (fetch_openmoji, fetch_noto):
            fetch(self.image_preprocessing.size)
        rank_zero_info(f"{OPENMOJI_ATTRIBUTION}. {NOTO_ATTRIBUTION}")

    def build_dataset(self, split: Split, transform: ImageTransform) -> Dataset[Sample]:
        """The pairs of a split."""
        fetch = fetch_noto if split == "test" else fetch_openmoji
        root = fetch(self.image_preprocessing.size)
        emoji = self._emoji[split]
        if split != "train":
            return fixed_emoji_pairs(emoji, _EVAL_PAIRS[split], self.split_seed, root, transform)
        names = [name_of(each) for each in emoji]
        images = emoji_dataset(emoji, names, [1] * len(emoji), root, transform, self.seed)
        return EntailmentPairs(images, names, seed=self.seed)
