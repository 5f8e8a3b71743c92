"""Hateful Memes: is picture and caption together hateful?

D. Kiela et al., *The Hateful Memes Challenge: Detecting Hate Speech in Multimodal Memes*, NeurIPS
2020, arXiv 2005.04790.
"""

from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from epic_pl.data.datamodule import Split
from epic_pl.data.layout import Layout, Located, locate
from epic_pl.data.readers import read_jsonl, require
from epic_pl.data.row_cache import cached_rows
from epic_pl.data.rows import Rows, sample_table
from epic_pl.data.rows_datamodule import RowsDataModule
from epic_pl.errors import DataError

_HOW_TO_GET = (
    "accept the licence of the Hateful Memes Challenge (hatefulmemeschallenge.com) and unpack the "
    "archive so that the folder holds img/*.png and train.jsonl, dev_seen.jsonl, test_seen.jsonl "
    "and so on."
)
# the first phase's archive has no unseen sets
_ALIASES = {"dev_seen": "dev_seen.jsonl|dev.jsonl", "dev": "dev.jsonl|dev_seen.jsonl"}


class HatefulMemesDataModule(RowsDataModule):
    """Hateful Memes: 8,500 train, 500 dev_seen, 540 dev_unseen, 1,000 test_seen, 2,000 test_unseen.

    ``img/*.png`` and JSON lines of ``id``, ``img``, ``text`` and ``label``. A file without labels,
    such as the challenge's ``test.jsonl``, can be predicted on: ``predict: test``.

    Args:
        data_dir: folder of the dataset.
        train: name of the training file, without ``.jsonl``.
        val: of the validation file.
        test: of the test file.
        predict: of the file that is predicted on; None is the test file.
        **kwargs: as for :class:`~epic_pl.data.datamodule.ImageTextDataModule`.

    Raises:
        ConfigError: options out of range.
        DataError: on :attr:`class_names`, if files are missing.
    """

    predict_split: Split = "predict"

    def __init__(
        self,
        *,
        data_dir: str = "data/hateful_memes",
        train: str = "train",
        val: str = "dev_seen",
        test: str = "test_seen",
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
    def text_origin(self) -> str:
        """The caption."""
        return "caption"

    @property
    def class_names(self) -> list[str]:
        """Not hateful is 0, hateful is 1.

        Raises:
            DataError: training or validation files are missing, so that a run ends before its
                encoders are fetched.
        """
        _ = self._located(self._names["train"], self._names["val"])
        return ["not_hateful", "hateful"]

    @property
    def own_splits(self) -> list[Split]:
        """Without ``predict`` where it reads the file of another split."""
        splits = super().own_splits
        files = {split: self._file(self._names[split]) for split in splits}
        others = [file for split, file in files.items() if split != "predict"]
        return [split for split in splits if split != "predict" or files[split] not in others]

    def _file(self, name: str) -> Path | str:
        """The file of that name, or the name where there is none."""
        try:
            return self._located(name)[_ALIASES.get(name, f"{name}.jsonl")]
        except DataError:
            return name

    def _located(self, *names: str) -> Located:
        files = tuple(_ALIASES.get(name, f"{name}.jsonl") for name in names)
        return locate(
            "Hateful Memes",
            self.data_dir,
            [Layout("hateful_memes", ("img/", *files))],
            how_to_get=_HOW_TO_GET,
            nested=("data", "hateful_memes"),
        )

    def read_split(self, split: Split) -> Rows:
        """The rows of a split.

        Raises:
            DataError: files are missing or broken, or a label is not 0 or 1.
        """
        name = self._names[split]
        found = self._located(name)
        path, root = found[_ALIASES.get(name, f"{name}.jsonl")], found["img/"].parent
        options = {"image_root": str(root.resolve())}
        return cached_rows("HatefulMemes", [path], options, partial(_read, path, root))


def _read(path: Path, root: Path) -> Rows:
    table = read_jsonl(path, ("id", "img", "text", "label"))
    for column in ("id", "img", "text"):
        require(table, column, path)
    labels = _label_codes(table, path)
    rows = sample_table(table["id"], table["img"], table["text"], labels, num_classes=2)
    return Rows(rows, root, path, notes={"without a label": labels.null_count})


def _label_codes(table: pa.Table, path: Path) -> pa.ChunkedArray:
    labels = table["label"]
    wrong = labels.filter(pc.invert(pc.is_in(labels, pa.array(["0", "1", None]))))
    if len(wrong):
        raise DataError(
            f"{path}: {len(wrong)} rows have a label other than 0 and 1, for example "
            f"{wrong[0].as_py()!r}. Fetch the file again."
        )
    return pc.cast(labels, pa.int64())
