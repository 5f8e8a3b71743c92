"""SNLI-VE: does a Flickr30k picture entail a sentence, contradict it, or neither?

N. Xie, F. Lai, D. Doran, A. Kadav, *Visual Entailment: A Novel Task for Fine-Grained Image
Understanding*, arXiv 1901.06706.
"""

from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from epic_pl.data.datamodule import Split
from epic_pl.data.folder import FolderDataModule, SplitRows
from epic_pl.data.layout import Layout, Located, locate, picture_folder
from epic_pl.data.records import read_jsonl, require
from epic_pl.data.row_cache import Origin
from epic_pl.errors import DataError

_FILES = {
    split: f"snli_ve_{name}.jsonl"
    for split, name in (("train", "train"), ("val", "dev"), ("test", "test"))
}
_LAYOUT = Layout("snli_ve", tuple(_FILES.values()))
# newer files, older files; a pairID such as 1234.jpg#2r1n tells it where both are missing
_IMAGE_KEYS = ("Flickr30K_ID", "Flikr30kID")
_IMAGE_FOLDERS = ("flickr30k_images", "flickr30k-images", "images")
_NO_CONSENSUS = "-"
_HOW_TO_GET = (
    "make snli_ve_train.jsonl, snli_ve_dev.jsonl and snli_ve_test.jsonl with the scripts of "
    "github.com/necla-ml/SNLI-VE and put them there; request Flickr30k's pictures from its authors "
    "(shannon.cs.illinois.edu/DenotationGraph) and unpack them to flickr30k_images/ beside them, "
    "or name their folder with --data.init_args.image_dir."
)


class SNLIVEDataModule(FolderDataModule):
    """SNLI-VE: 529,527 / 17,858 / 17,901 rows over 29,783 / 1,000 / 1,000 pictures.

    ``snli_ve_{train,dev,test}.jsonl`` as released, pictures in ``flickr30k_images/``,
    ``flickr30k-images/`` or ``images/``, nested once or twice. Text is the hypothesis,
    ``sentence2``. Rows whose annotators found no consensus (``-``) are dropped and counted. About
    17 rows share a picture; they name one file. The dataset's authors found about 9% of the labels
    wrong, mostly neutral ones (arXiv 2004.03744), so accuracy has a ceiling well below 100%.

    Args:
        data_dir: folder of the three files.
        image_dir: folder of the pictures; None looks beside the three files and in ``data_dir``.
        premise: put ``sentence1`` before the hypothesis. That is the caption which the labels were
            made from, so text alone can then tell the answer; results with it are of another task.
        **kwargs: as for :class:`~epic_pl.data.datamodule.ImageTextDataModule`.

    Raises:
        ConfigError: options out of range.
        DataError: on :attr:`class_names`, if files are missing.
    """

    def __init__(
        self,
        *,
        data_dir: str = "data/snli_ve",
        image_dir: str | None = None,
        premise: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(data_dir=data_dir, **kwargs)
        self.image_dir = image_dir
        self.premise = premise

    @property
    def text_origin(self) -> str:
        """``hypothesis``, or ``premise+hypothesis``."""
        return "premise+hypothesis" if self.premise else "hypothesis"

    @property
    def class_names(self) -> list[str]:
        """Entailment, neutral, contradiction.

        Raises:
            DataError: files are missing, so that a run ends before its encoders are fetched.
        """
        _ = self._files, self._image_root
        return ["entailment", "neutral", "contradiction"]

    @cached_property
    def _files(self) -> Located:
        return locate(
            "SNLI-VE",
            self.data_dir,
            [_LAYOUT],
            how_to_get=_HOW_TO_GET,
            nested=("data", "snli_ve", "SNLI-VE"),
        )

    @cached_property
    def _image_root(self) -> Path:
        if self.image_dir is not None:
            place = (Path(self.image_dir),)
            return picture_folder("SNLI-VE", place, (".", *_IMAGE_FOLDERS), _HOW_TO_GET)
        # pictures lie beside the annotations, or above the folder that an archive made for these
        places = (self._files[_FILES["train"]].parent, Path(self.data_dir))
        return picture_folder("SNLI-VE", places, _IMAGE_FOLDERS, _HOW_TO_GET)

    def row_origin(self, split: Split) -> Origin:
        """The split's file, the pictures' folder, and whether the premise is read.

        Raises:
            DataError: files are missing.
        """
        options = {"premise": self.premise, "image_root": str(self._image_root.resolve())}
        return Origin([self._files[_FILES[split]]], options)

    def read_split(self, split: Split) -> SplitRows:
        """The rows of a split.

        Raises:
            DataError: files are missing or broken, or a label is unknown.
        """
        path = self._files[_FILES[split]]
        table = read_jsonl(path, (*_IMAGE_KEYS, "pairID", "gold_label", "sentence1", "sentence2"))
        for column in ("pairID", "gold_label", "sentence2"):
            require(table, column, path)
        consensus = pc.not_equal(table["gold_label"], _NO_CONSENSUS)
        kept = table.filter(consensus)
        if self.premise:
            require(kept, "sentence1", path)
            texts = pc.binary_join_element_wise(kept["sentence1"], kept["sentence2"], " ")
        else:
            texts = kept["sentence2"]
        images = _image_names(kept)
        return SplitRows(
            source=path,
            sample_ids=kept["pairID"],
            images=images,
            texts=texts,
            labels=_label_codes(kept, self.class_names, path),
            image_root=self._image_root,
            notes={
                "dropped because their annotators disagree": table.num_rows - kept.num_rows,
                "pictures": len(pc.unique(images)),
            },
        )


def _image_names(table: pa.Table) -> pa.ChunkedArray:
    """File name of each row's picture: the key, with or without its suffix, else the pair's."""
    # an empty key is none
    keys = [pc.if_else(pc.equal(table[key], ""), None, table[key]) for key in _IMAGE_KEYS]
    name = pc.coalesce(*keys, table["pairID"])
    return pc.binary_join_element_wise(
        pc.replace_substring_regex(name, r"(\.jpg)?(#.*)?$", ""), ".jpg", ""
    )


def _label_codes(table: pa.Table, classes: list[str], path: Path) -> pa.ChunkedArray:
    codes = pc.index_in(table["gold_label"], pa.array(classes))
    if codes.null_count:
        row = codes.is_null().to_pylist().index(True)
        raise DataError(
            f"{path}: {codes.null_count} rows have a gold_label that is none of "
            f"{', '.join(classes)} or {_NO_CONSENSUS!r}, for example "
            f"{table['gold_label'][row].as_py()!r} of pair {table['pairID'][row].as_py()!r}. "
            "Fetch the file again."
        )
    return codes
