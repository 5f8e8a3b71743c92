"""Hateful Memes: is image and caption together hateful?

D. Kiela et al., *The Hateful Memes Challenge: Detecting Hate Speech in Multimodal Memes*, NeurIPS
2020, arXiv 2005.04790.
"""

import contextlib
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from epic_pl.data.datamodule import Split
from epic_pl.data.layout import Layout, Located, locate
from epic_pl.data.readers import label_codes, read_jsonl, require
from epic_pl.data.row_cache import cached_rows
from epic_pl.data.rows import Rows, sample_table
from epic_pl.data.rows_datamodule import RowsDataModule
from epic_pl.errors import DataError

_HOW_TO_GET = (
    "accept the licence of the Hateful Memes Challenge (hatefulmemeschallenge.com) and unpack the "
    "archive so that the folder holds img/*.png and train.jsonl, dev_seen.jsonl, test_seen.jsonl "
    "and so on."
)
_ALIASES = {"dev_seen": "dev_seen.jsonl|dev.jsonl", "dev": "dev.jsonl|dev_seen.jsonl"}
_DEFAULT_TEST = "test_seen"


class HatefulMemesDataModule(RowsDataModule):
    """Hateful Memes: 8,500 train, 500 dev_seen, 540 dev_unseen, 1,000 test_seen, 2,000 test_unseen.

    ``img/*.png`` and JSON lines of ``id``, ``img``, ``text`` and ``label``. A file without labels,
    such as the challenge's ``test.jsonl``, can be predicted on: ``predict: test``.

    Args:
        data_dir: folder of the dataset.
        train: name of the training file, without ``.jsonl``.
        val: of the validation file.
        test: of the test file. Kaggle's archive has only ``train``, ``dev`` and an unlabelled
            ``test``: without ``test_seen.jsonl`` the validation file is tested on, with a warning.
        predict: of the file that is predicted on; None is the test file.
        **kwargs: as for :class:`~epic_pl.data.datamodule.ImageTextDataModule`.
    """

    predict_split: Split = "predict"
    text_origin = "caption"

    def __init__(
        self,
        *,
        data_dir: str = "data/hateful_memes",
        train: str = "train",
        val: str = "dev_seen",
        test: str = _DEFAULT_TEST,
        predict: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.data_dir = data_dir
        self._names: dict[Split, str] = {
            "train": train,
            "val": val,
            "test": test,
            "predict": test if predict is None else predict,
        }

    @property
    def class_names(self) -> list[str]:
        """Not hateful is 0, hateful is 1; training and validation files must be there."""
        _ = self._located("train", "val")
        return ["not_hateful", "hateful"]

    @property
    def own_splits(self) -> list[Split]:
        """Without those that read the file of another split."""
        files: dict[Path, Split] = {}
        for split in super().own_splits:
            with contextlib.suppress(DataError):
                files.setdefault(self._file(split), split)
        return list(files.values())

    def _file(self, split: Split) -> Path:
        try:
            return self._located(split).paths[self._need(split)]
        except DataError:
            if split != "test" or self._names["test"] != _DEFAULT_TEST:
                raise
            path = self._located("val").paths[self._need("val")]
            rank_zero_warn(
                f"{self.data_dir} has no {_DEFAULT_TEST}.jsonl, whose labels Kaggle's archive "
                f"lacks: the test split is {path.name}, the validation data. Do not report its "
                "figures as test results."
            )
            return path

    def _need(self, split: Split) -> str:
        name = self._names[split]
        need = _ALIASES.get(name, f"{name}.jsonl")
        return f"{need}|test.jsonl" if (split, name) == ("predict", _DEFAULT_TEST) else need

    def _located(self, *splits: Split) -> Located:
        return locate(
            "Hateful Memes",
            self.data_dir,
            [Layout("hateful_memes", ("img/", *map(self._need, splits)))],
            how_to_get=_HOW_TO_GET,
            nested=("data", "hateful_memes"),
        )

    def read_split(self, split: Split) -> Rows:
        """The rows of a split."""
        path, root = self._file(split), self._located().paths["img/"].parent
        options = {"image_root": str(root.resolve())}
        return cached_rows("HatefulMemes", [path], options, partial(_read, path, root))


def _read(path: Path, root: Path) -> Rows:
    table = read_jsonl(path, ("id", "img", "text", "label"))
    require(table, ("id", "img", "text"), path)
    labels = label_codes(table, "label", ("0", "1"), "id", path)
    rows = sample_table(table["id"], table["img"], table["text"], labels)
    return Rows(rows, root, path, notes={"without a label": labels.null_count})
