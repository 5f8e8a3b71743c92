"""Hateful Memes: are image and caption together hateful?

D. Kiela et al., *The Hateful Memes Challenge: Detecting Hate Speech in Multimodal Memes*, NeurIPS
2020, arXiv 2005.04790.
"""

from pathlib import Path
from typing import Any

from epic_pl.data.datamodule import ImageTextDataModule, Split
from epic_pl.data.datasets.annotations import find_path, label_codes, read_jsonl
from epic_pl.data.rows import Rows, sample_table

_HOW_TO_GET = (
    "accept the licence of the Hateful Memes Challenge (hatefulmemeschallenge.com) and unpack the "
    "archive so that the folder holds img/*.png and train.jsonl, dev_seen.jsonl, test_seen.jsonl "
    "and so on. Kaggle's archive has dev.jsonl and a test.jsonl without labels: name them with "
    "--data.init_args.val=dev --data.init_args.test=dev --data.init_args.predict=test, and report "
    "no figure of dev as a test result."
)


class HatefulMemesDataModule(ImageTextDataModule):
    """Hateful Memes: 8,500 train, 500 dev_seen, 540 dev_unseen, 1,000 test_seen, 2,000 test_unseen.

    ``img/*.png`` and JSON lines of ``id``, ``img``, ``text`` and ``label``. A file without labels,
    such as the challenge's ``test.jsonl``, can be predicted on (``predict: test``).

    Args:
        data_dir: folder of the dataset.
        val: name of the validation file, without ``.jsonl``.
        test: name of the test file, without ``.jsonl``.
        predict: name of the file to predict, without ``.jsonl``; None is the test file.
        **kwargs: arguments of :class:`~epic_pl.data.datamodule.ImageTextDataModule`.

    Example:
        >>> data = HatefulMemesDataModule(image_encoder="tiny-vit", text_encoder="tiny-bert")
        >>> data.own_splits  # predict reads the test file
        ['train', 'val', 'test']
    """

    predict_split: Split = "predict"
    text_origin = "caption"

    def __init__(
        self,
        *,
        data_dir: str = "data/hateful_memes",
        val: str = "dev_seen",
        test: str = "test_seen",
        predict: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.data_dir = data_dir
        self._names = {"train": "train", "val": val, "test": test, "predict": predict or test}

    @property
    def class_names(self) -> list[str]:
        """Class 0 is not hateful, class 1 hateful; training and validation files must exist."""
        _ = self._file("train"), self._file("val")
        return ["not_hateful", "hateful"]

    @property
    def own_splits(self) -> list[Split]:
        """The splits that have a file of their own."""
        splits: dict[str, Split] = {}
        for split in super().own_splits:
            splits.setdefault(self._names[split], split)
        return list(splits.values())

    def _file(self, split: Split) -> Path:
        return find_path(self.data_dir, [f"{self._names[split]}.jsonl"], _HOW_TO_GET)

    def read_split(self, split: Split) -> Rows:
        """The rows of a split."""
        path = self._file(split)
        root = find_path(path.parent, ["img"], _HOW_TO_GET).parent
        needed = ("id", "img", "text")
        table = read_jsonl(path, (*needed, "label"), needed)
        labels = label_codes(table, "label", ("0", "1"), "id", path)
        rows = sample_table(table["id"], table["img"], table["text"], labels)
        return Rows(rows, root, path, notes={"rows without a label": labels.null_count})
