"""SNLI-VE: does a Flickr30k image entail a sentence, contradict it, or neither?

N. Xie, F. Lai, D. Doran, A. Kadav, *Visual Entailment: A Novel Task for Fine-Grained Image
Understanding*, arXiv 1901.06706.
"""

from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from epic_pl.data.datamodule import ImageTextDataModule, Split
from epic_pl.data.datasets.annotations import find_path, label_codes, read_jsonl
from epic_pl.data.row_cache import cached_rows
from epic_pl.data.rows import Rows, sample_table

_CLASSES = ["entailment", "neutral", "contradiction"]
# key of newer and older files; without both, the pair id (3416050480.jpg#4r1n) names the image
_IMAGE_KEYS = ("Flickr30K_ID", "Flikr30kID")
_FOLDERS = ("flickr30k_images", "flickr30k-images", "images")
_IMAGE_FOLDERS = (*(f"{outer}/{inner}" for outer in _FOLDERS for inner in _FOLDERS), *_FOLDERS)
_NO_CONSENSUS = "-"
_HOW_TO_GET = (
    "make snli_ve_train.jsonl, snli_ve_dev.jsonl and snli_ve_test.jsonl with the scripts of "
    "github.com/necla-ml/SNLI-VE and put them there; request Flickr30k's images from its authors "
    "(shannon.cs.illinois.edu/DenotationGraph) and unpack them to flickr30k_images/ beside them, "
    "or name their folder with --data.init_args.image_dir."
)


class SNLIVEDataModule(ImageTextDataModule):
    """SNLI-VE: 529,527 / 17,858 / 17,901 rows over 29,783 / 1,000 / 1,000 images.

    It reads the released ``snli_ve_{train,dev,test}.jsonl``, or ``.jsonl.gz``, and images in
    ``flickr30k_images/``, ``flickr30k-images/`` or ``images/``, nested once or twice. The text is
    the hypothesis, ``sentence2``. Rows without a consensus of annotators (``-``) are dropped and
    counted. About 17 rows share an image; ``Batch["image_path"]`` groups them. About 9% of the
    labels are wrong, mostly neutral ones (arXiv 2004.03744), so the accuracy of even a perfect
    model is well below 100%.

    Args:
        data_dir: folder of the three files.
        image_dir: folder of the images; None searches ``data_dir``.
        premise: whether to put ``sentence1``, the caption on which annotators based the labels,
            before the hypothesis. The text alone then has the answer, which is another task.
        **kwargs: arguments of :class:`~epic_pl.data.datamodule.ImageTextDataModule`.

    Example:
        >>> data = SNLIVEDataModule(image_encoder="tiny-vit", text_encoder="tiny-bert")
        >>> data.task, data.text_origin
        ('multiclass', 'hypothesis')
    """

    def __init__(
        self,
        *,
        data_dir: str = "data/snli_ve",
        image_dir: str | None = None,
        premise: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.data_dir = data_dir
        self.image_dir = image_dir
        self.premise = premise
        self.text_origin = "premise+hypothesis" if premise else "hypothesis"

    @property
    def class_names(self) -> list[str]:
        """The classes entailment, neutral and contradiction; files and images must exist."""
        _ = self._file("train"), self._file("val"), self._file("test"), self._image_root
        return list(_CLASSES)

    def _file(self, split: Split) -> Path:
        name = f"snli_ve_{'dev' if split == 'val' else split}.jsonl"
        return find_path(self.data_dir, (name, f"{name}.gz"), _HOW_TO_GET)

    @cached_property
    def _image_root(self) -> Path:
        if self.image_dir is not None:
            return Path(self.image_dir)
        return find_path(self.data_dir, _IMAGE_FOLDERS, _HOW_TO_GET)

    def read_split(self, split: Split) -> Rows:
        """The rows of a split."""
        path, root = self._file(split), self._image_root
        options = {"premise": self.premise, "image_root": str(root.resolve())}
        return cached_rows("SNLIVE", [path], options, partial(_read, path, root, self.premise))


def _read(path: Path, root: Path, premise: bool) -> Rows:
    needed = ("pairID", "gold_label", "sentence2", *(["sentence1"] if premise else []))
    table = read_jsonl(path, (*_IMAGE_KEYS, *needed), needed)
    kept = table.filter(pc.not_equal(table["gold_label"], _NO_CONSENSUS))
    texts = kept["sentence2"]
    if premise:
        texts = pc.binary_join_element_wise(kept["sentence1"], texts, " ")
    images = _image_names(kept)
    notes = {
        "rows dropped because their annotators disagree": table.num_rows - kept.num_rows,
        "images": len(pc.unique(images)),
    }
    labels = label_codes(kept, "gold_label", _CLASSES, "pairID", path)
    return Rows(sample_table(kept["pairID"], images, texts, labels), root, path, notes=notes)


def _image_names(table: pa.Table) -> pa.ChunkedArray:
    """File name of each row's image: from its key, with or without suffix, else its pair id."""
    # an empty key counts as missing
    keys = [pc.if_else(pc.equal(table[key], ""), None, table[key]) for key in _IMAGE_KEYS]
    stems = pc.replace_substring_regex(pc.coalesce(*keys, table["pairID"]), r"(\.jpg)?(#.*)?$", "")
    return pc.binary_join_element_wise(stems, ".jpg", "")
