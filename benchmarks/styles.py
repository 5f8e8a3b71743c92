"""Styles: visual entailment where training and test show the same things, drawn by two vendors.

Images: OpenMoji, CC BY-SA 4.0, https://openmoji.org, and Noto Emoji, Google, Apache-2.0,
https://github.com/googlefonts/noto-emoji: to be credited wherever they are shown. `styles.yaml`
names the DataModule; this folder must be on PYTHONPATH.
"""

import json
from functools import cached_property
from pathlib import Path

import numpy as np
from lightning.pytorch.utilities import rank_zero_info

from epic_pl.data.datamodule import ImageTextDataModule, Split
from epic_pl.data.dataset import ImageTextDataset
from epic_pl.data.datasets.entailment import ENTAILMENT_CLASSES, EntailmentPairs
from epic_pl.data.datasets.openmoji import LEFT_OUT, emoji_pairs, emoji_rows
from epic_pl.data.rows import Rows
from epic_pl.data.splits import stratified_split
from epic_pl.data.transforms import ImageTransform
from epic_pl.utils.assets import OPENMOJI_ATTRIBUTION, Emoji, fetch_openmoji, load_emoji
from epic_pl.utils.assets.cache import cached_folder
from epic_pl.utils.assets.openmoji import draw_svg
from npm import Package, open_package, read_member

NOTO_ATTRIBUTION = "Images: Noto Emoji, Google, Apache-2.0"
_NOTO = Package(
    "@iconify-json/noto@1.2.9",
    "iconify-json-noto-1.2.9.tgz",
    "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
)
_XML = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
_SPLIT_SEED = 0
_EVAL_PAIRS = {"val": 8, "test": 4}  # an image; 4 make about 6,500 test pairs


class StylesDataModule(ImageTextDataModule):
    """Whether a statement is the image's name; trained on OpenMoji, tested on Noto's drawings.

    Training has 95% of the OpenMoji images, validation 5%, stratified by category. Test shows
    the 1,629 emoji of both in Noto's drawings, so nearly all names were seen in training. Pairs are
    drawn anew every epoch for training; of validation and test they are fixed.
    """

    @property
    def class_names(self) -> list[str]:
        """Not_entailment and entailment."""
        return list(ENTAILMENT_CLASSES)

    @cached_property
    def _emoji(self) -> dict[str, list[Emoji]]:
        """The emoji of each split."""
        emoji = [drawn for drawn in load_emoji() if drawn.category not in LEFT_OUT]
        codes = np.unique([drawn.category for drawn in emoji], return_inverse=True)[1]
        rows = stratified_split(codes, {"train": 0.95, "val": 0.05}, _SPLIT_SEED)
        parts = {split: [emoji[row] for row in part] for split, part in rows.items()}
        return {**parts, "test": emoji}

    def prepare_data(self) -> None:
        """Fetch and draw both vendors' images, once a machine, and show their attribution."""
        super().prepare_data()
        for fetch in (fetch_openmoji, fetch_noto):
            fetch(self.image_preprocessing.size)
        rank_zero_info(f"{OPENMOJI_ATTRIBUTION}. {NOTO_ATTRIBUTION}")

    def read_split(self, split: Split) -> Rows:
        """The pairs of a split; of training, the images that they are drawn from."""
        fetch = fetch_noto if split == "test" else fetch_openmoji
        root, emoji = fetch(self.image_preprocessing.size), self._emoji[split]
        if split == "train":
            return emoji_rows(emoji, root, [1] * len(emoji))
        return emoji_pairs(emoji, root, _EVAL_PAIRS[split], _SPLIT_SEED)

    def build_dataset(
        self, split: Split, rows: Rows, transform: ImageTransform
    ) -> ImageTextDataset:
        """As in the base; training pairs are drawn anew every epoch."""
        if split != "train":
            return super().build_dataset(split, rows, transform)
        return EntailmentPairs(rows.table, rows.image_root, transform, seed=self.seed)


def fetch_noto(size: int) -> Path:
    """A folder with Noto's emoji as `<code>.png` on white, named as those of `fetch_openmoji`.

    Flags are not among them. The first use of a size fetches 3 MB with npm, Node's package manager.
    """
    return cached_folder(f"noto-1.2.9-{size}px", lambda folder: _draw_all(folder, size))


def _draw_all(folder: Path, size: int) -> None:
    with open_package(_NOTO) as archive:
        icons, codes = (json.loads(read_member(archive, f"{n}.json")) for n in ("icons", "chars"))
    names = {alias: icon["parent"] for alias, icon in icons["aliases"].items()}
    head = f'<svg {_XML} viewBox="0 0 {icons["width"]} {icons["height"]}">'
    bodies = {name: f"{head}{icon['body']}</svg>" for name, icon in icons["icons"].items()}
    drawings = {_key(code): bodies[names.get(name, name)] for code, name in codes.items()}
    for emoji in load_emoji():
        if svg := drawings.get(_key(emoji.code)):
            (folder / f"{emoji.code}.png").write_bytes(draw_svg(svg, size))
    (folder / "ATTRIBUTION.txt").write_text(f"{NOTO_ATTRIBUTION}\n", encoding="utf-8")


def _key(code: str) -> str:
    # both leave out FE0F (variation selector 16) in places
    return code.lower().replace("-fe0f", "")
