"""OpenMoji: two small real tasks on images and names of emoji; pip fetches them.

Images: Hfg Schwäbisch Gmünd, *OpenMoji: the open-source emoji and icon project*,
https://openmoji.org, CC BY-SA 4.0, which asks for credit wherever they are shown. Names and
subcategories: Unicode Standard.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from lightning.pytorch.utilities import rank_zero_info

from epic_pl.data.datamodule import ImageTextDataModule, Split
from epic_pl.data.dataset import ImageTextDataset
from epic_pl.data.rows import Rows, sample_table, stratified_split
from epic_pl.data.transforms import ImageTransform
from epic_pl.utils.assets import OPENMOJI_ATTRIBUTION, Emoji, fetch_openmoji, load_emoji
from epic_pl.utils.errors import DataError
from epic_pl.utils.types import Row
from epic_pl.utils.validate import check_at_least, check_word

Variant = Literal["subcategory", "entailment"]

MIN_EXAMPLES = 15
"""A subcategory with fewer emoji is no class."""
# flags of a country look alike and have like names; components are bare skin tones
LEFT_OUT = ("Flags", "Component")
_FOLDS = 3
_EVAL_PAIRS = {"val": 8, "test": 5}  # pairs per image; 5 make about 1,600 test pairs


class OpenMojiDataModule(ImageTextDataModule):
    """Emoji images with their names: fine-grained classification, or visual entailment.

    ``variant="subcategory"`` classifies image and name by Unicode subcategory: 39 classes with at
    least :data:`MIN_EXAMPLES` emoji, 1,161 rows, stratified into 783 / 87 / 291 for train / val /
    test. About one name in seven has a word of its class ("red heart" is a ``heart``).

    ``variant="entailment"`` asks whether a statement is the image's name, as a small counterpart of
    SNLI-VE. Neither modality alone is informative. The 1,629 images and their names are divided
    into 75% / 5% / 20%, so test images *and* statements do not occur in training. Training pairs
    are drawn anew every epoch by
    :class:`~epic_pl.data.datasets.openmoji.EntailmentPairs`. The pairs of val (8 per image) and
    test (5 per image) are fixed, half of them true.

    The text is the name in lower case. Images are rendered at the encoder's input size, on white.

    Args:
        variant: ``subcategory`` or ``entailment``.
        split_seed: seed of the splits, apart from ``seed``, so that runs share their test rows.
        fold: cross-validation on training and validation rows: with 0, 1 or 2 a third of them
            replaces the test split; 3, 4 and 5 are the thirds of another division, and so on.
        **kwargs: arguments of :class:`~epic_pl.data.datamodule.ImageTextDataModule`.

    Example:
        >>> encoders = {"image_encoder": "tiny-vit", "text_encoder": "tiny-bert"}
        >>> OpenMojiDataModule(variant="entailment", **encoders).class_names
        ['not_entailment', 'entailment']
    """

    def __init__(
        self,
        *,
        variant: Variant = "subcategory",
        split_seed: int = 0,
        fold: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_word(get_args(Variant), variant=variant)
        check_at_least(0, split_seed=split_seed, fold=fold)
        self.variant = variant
        self.split_seed = split_seed
        self.fold = fold

    @property
    def class_names(self) -> list[str]:
        """The subcategories in alphabetical order, or not_entailment and entailment."""
        if self.variant == "entailment":
            return ["not_entailment", "entailment"]
        return sorted({emoji.subcategory for emoji in self._emoji})

    @cached_property
    def _emoji(self) -> list[Emoji]:
        """The emoji of the task, in Unicode's order; the first use fetches the list (1 MB)."""
        shown = [each for each in load_emoji() if each.category not in LEFT_OUT]
        shown = [each._replace(name=each.name.lower()) for each in shown]
        if self.variant == "subcategory":
            count = Counter(each.subcategory for each in shown)
            shown = [each for each in shown if count[each.subcategory] >= MIN_EXAMPLES]
        return shown

    def prepare_data(self) -> None:
        """Fetch and render the images, once per machine, and show their attribution."""
        super().prepare_data()
        fetch_openmoji(self.image_preprocessing.size)
        rank_zero_info(OPENMOJI_ATTRIBUTION)

    def read_split(self, split: Split) -> Rows:
        """The rows of a split; for training on entailment they are images, not yet pairs."""
        root = fetch_openmoji(self.image_preprocessing.size)
        emoji = _split_emoji(self._emoji, self.variant, self.split_seed, self.fold)[split]
        names, classes = [shown.name for shown in emoji], self.class_names
        pairs = [(row, name, 1) for row, name in enumerate(names)]
        if self.variant == "subcategory":
            pairs = [(at, name, classes.index(emoji[at].subcategory)) for at, name, _ in pairs]
        elif split != "train":
            # with the number in the seed, val and test draw different statements
            number = _EVAL_PAIRS[split]
            pairs = fixed_pairs(names, number, (self.split_seed, number))
        codes, seen, ids = [emoji[at].code for at, _, _ in pairs], Counter[str](), []
        for code in codes:  # an image of several pairs has numbered ids
            ids.append(f"{code}#{seen[code]}" if seen[code] else code)
            seen[code] += 1
        _, texts, labels = zip(*pairs, strict=True)
        table = sample_table(ids, [f"{code}.png" for code in codes], texts, labels)
        return Rows(table, root, root)

    def build_dataset(
        self, split: Split, rows: Rows, transform: ImageTransform
    ) -> ImageTextDataset:
        """The dataset of some rows; training on entailment draws new pairs every epoch."""
        if self.variant == "subcategory" or split != "train":
            return super().build_dataset(split, rows, transform)
        return EntailmentPairs(rows.table, rows.image_root, transform, seed=self.seed)


def _split_emoji(
    emoji: Sequence[Emoji], variant: Variant, seed: int, fold: int | None
) -> dict[str, list[Emoji]]:
    """The emoji of each split; in entailment, emoji of the same name are in one split."""
    if variant == "subcategory":
        stratum = {shown.code: shown.subcategory for shown in emoji}
        test = math.ceil(0.25 * len(emoji))
        val = round(0.1 * (len(emoji) - test))
        sizes: dict[str, int | float] = {"train": len(emoji) - test - val, "val": val, "test": test}
    else:
        stratum = {shown.name: shown.category for shown in emoji}
        sizes = {"train": 0.75, "val": 0.05, "test": 0.2}
    keys = list(stratum)
    rows = _share_out(list(stratum.values()), sizes, seed, fold)
    parts = {split: {keys[row] for row in rows[split]} for split in sizes}
    return {
        split: [shown for shown in emoji if not part.isdisjoint((shown.code, shown.name))]
        for split, part in parts.items()
    }


def _share_out(
    classes: Sequence[str], sizes: Mapping[str, int | float], seed: int, fold: int | None
) -> dict[str, npt.NDArray[np.int64]]:
    """Stratified rows of each split; with a fold, rows of the test split are not used."""
    codes = np.unique(classes, return_inverse=True)[1].astype(np.int64)
    rows = stratified_split(codes, sizes, seed)
    if fold is None:
        return rows
    outside = np.sort(np.concatenate([rows["train"], rows["val"]]))
    cut, third = divmod(fold, _FOLDS)
    thirds = {str(number): 1 / _FOLDS for number in range(_FOLDS)}
    test = outside[stratified_split(codes[outside], thirds, seed + cut)[str(third)]]
    rest = np.setdiff1d(outside, test)
    val = len(rows["val"]) / len(outside)
    parts = stratified_split(codes[rest], {"train": 1 - val, "val": val}, seed)
    return {split: rest[part] for split, part in parts.items()} | {"test": test}


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

    def row(self, index: int) -> Row:
        """The row ``index`` with this epoch's statement, and its image path."""
        row = super().row(index)
        rng = np.random.default_rng((self.seed, self.epoch, index))
        row["label"] = int(rng.integers(2))
        if not row["label"]:
            row["text"] = super().row(_other_row(self._columns["text"], index, rng))["text"]
        return row


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
    if (count := len(set(names))) < 2:
        raise DataError(f"False statements need more than {count} different names: add images.")
