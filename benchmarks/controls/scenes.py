"""Scenes: composed images, and statements about them that need both modalities.

They are made of OpenMoji, CC BY-SA 4.0, https://openmoji.org: to be credited where they are shown.
"""

import copy
import hashlib
import re
from collections.abc import Sequence
from functools import cached_property, partial
from itertools import combinations
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
from lightning.pytorch.utilities import rank_zero_info
from PIL import Image
from rich.console import Console
from rich.progress import track

from epic_pl.data.datamodule import ImageTextDataModule, Split
from epic_pl.data.rows import Rows, sample_table
from epic_pl.utils.assets import OPENMOJI_ATTRIBUTION, Emoji, fetch_openmoji, load_emoji
from epic_pl.utils.assets.cached import cache_dir, cached_folder
from epic_pl.utils.assets.wheels import OPENMOJI
from epic_pl.utils.validate import check_at_least, check_word

KINDS = ("existence", "conjunction", "relation")
"""Kinds of statements, which are also the subsets whose accuracies are logged."""

Unseen = Literal["pairs", "objects"]

_CATEGORIES = ("Animals & Nature", "Food & Drink", "Activities", "Travel & Places", "Objects")
_SIZES = (2, 3)  # objects of a scene
_SIDES = (0.28, 0.44)  # of an object, as a share of the image's
_EVERY = 2  # of the things, so that each is shown in more scenes
_PHRASES = {
    "left": ("left of", "to the left of"),
    "right": ("right of", "to the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
_ROWS = {"val": 1512, "test": 6000}
_UNSEEN_OBJECTS = 0.15
_PAIR_SHARES = {"val": 0.05, "pairs": 0.15}
_CHUNK = 1000  # images of a folder, drawn together
_PARTS = ("train", "val", "pairs", "objects")
_VERSION = 1  # raised when the same options give other scenes


class Statement(NamedTuple):
    """A sentence about a scene, its kind (one of :data:`KINDS`), and whether it is true."""

    kind: str
    text: str
    truth: bool


class Box(NamedTuple):
    """Left and upper edge and side of a square, as shares of the image's side."""

    left: float
    top: float
    side: float


class Arrangement(NamedTuple):
    """Objects of an image, by index into the names, and where each one lies."""

    objects: tuple[int, ...]
    boxes: tuple[Box, ...]


class Scene(NamedTuple):
    """What an image shows, and a statement of each kind; in test a true and a false one."""

    arrangement: Arrangement
    statements: tuple[Statement, ...]


class SceneGenerator:
    """How objects, by their names, and pairs of them are divided among the parts of the data.

    All scenes follow from that and the seed.
    """

    def __init__(self, names: Sequence[str], seed: int) -> None:
        self.names = names
        self.seed = seed
        rng = np.random.default_rng((seed, len(_PARTS)))
        unseen = rng.permutation(len(names)) < _UNSEEN_OBJECTS * len(names)
        drawn = np.tril(rng.random((len(names), len(names))), -1)
        bounds = np.cumsum([_PAIR_SHARES["val"], _PAIR_SHARES["pairs"]])
        of_pair = np.array(["val", "pairs", "train"])[np.digitize(drawn + drawn.T, bounds)]
        self._pool, self._allowed, self._pairs = {}, {}, {}
        for part in _PARTS:
            inside = unseen == (part == "objects")
            self._pool[part] = np.flatnonzero(inside)
            # (objects, objects) bool: which two a statement of the part may name together
            allowed = np.outer(inside, inside) & ~np.eye(len(names), dtype=bool)
            self._allowed[part] = allowed & ((of_pair == part) | (part == "objects"))
            self._pairs[part] = np.argwhere(self._allowed[part])

    def scene(self, part: str, index: int) -> Scene:
        """A scene of a part: the same, whatever else is drawn."""
        rng = np.random.default_rng((self.seed, _PARTS.index(part), index))
        while not self._replacements(part, objects := self._objects(part, rng)).any():
            pass  # a false conjunction needs another partner; rare
        shown = Arrangement(objects, _free_places(len(objects), rng))
        makers = (self._existence, self._conjunction, self._relation)
        statements = []
        for bit, (kind, make) in enumerate(zip(KINDS, makers, strict=True)):
            truth = bool(index >> bit & 1)  # each combination once in eight scenes
            if part in get_args(Unseen):  # from the same draws: the relation the other way round
                text = make(part, shown, not truth, copy.deepcopy(rng))
                statements.append(Statement(kind, text, not truth))
            statements.append(Statement(kind, make(part, shown, truth, rng), truth))
        return Scene(shown, tuple(statements))

    def _objects(self, part: str, rng: np.random.Generator) -> tuple[int, ...]:
        """Draw a scene's objects; conjunctions and relations name the first two."""
        size, allowed = int(rng.choice(_SIZES)), self._allowed[part]
        if part != "train":
            pair = rng.choice(self._pairs[part])
            others = rng.permutation(np.setdiff1d(self._pool[part], pair))
            return (*pair.tolist(), *others[: size - 2].tolist())
        while True:
            objects: list[int] = rng.choice(self._pool[part], size, replace=False).tolist()
            if all(allowed[pair] for pair in combinations(objects, 2)):
                return tuple(objects)

    def _replacements(self, part: str, objects: Sequence[int]) -> npt.NDArray[np.bool_]:
        """Mask ``(2, objects)`` of valid replacements of the second object, and of the first."""
        allowed: npt.NDArray[np.bool_] = self._allowed[part][list(objects[:2])]
        allowed[:, list(objects)] = False
        return allowed

    def _existence(
        self, part: str, shown: Arrangement, truth: bool, rng: np.random.Generator
    ) -> str:
        objects = shown.objects if truth else ()
        # in training no pair of another part may be seen, not even between image and statement
        fits = self._allowed["train"][list(shown.objects)].all(axis=0) | (part != "train")
        while not objects:  # what is absent is drawn out of a scene too
            drawn = self._objects(part, rng)
            objects = tuple(thing for thing in drawn if thing not in shown.objects and fits[thing])
        return f"there is {self._a(int(rng.choice(objects)))}"

    def _conjunction(
        self, part: str, shown: Arrangement, truth: bool, rng: np.random.Generator
    ) -> str:
        pair = list(shown.objects[:2])
        if not truth:
            kept, other = rng.choice(np.argwhere(self._replacements(part, shown.objects)))
            pair = [pair[kept], int(other)]
        first, second = rng.permutation(pair).tolist()
        return f"there is {self._a(first)} and {self._a(second)}"

    def _relation(
        self, part: str, shown: Arrangement, truth: bool, rng: np.random.Generator
    ) -> str:
        one, other = rng.permutation(2).tolist()
        here, there = shown.boxes[one], shown.boxes[other]
        words = []
        for axis, (before, behind) in enumerate((("left", "right"), ("above", "below"))):
            first, second = sorted((here, there), key=itemgetter(axis))
            if first[axis] + first.side <= second[axis]:  # else one would doubt the relation
                words.append(before if first is here else behind)
        phrase = rng.choice(_PHRASES[rng.choice(words)])
        subject, thing = (one, other) if truth else (other, one)
        names = [self.names[shown.objects[index]] for index in (subject, thing)]
        return f"the {names[0]} is {phrase} the {names[1]}"

    def _a(self, thing: int) -> str:
        name = self.names[thing]
        return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _free_places(number: int, rng: np.random.Generator) -> tuple[Box, ...]:
    """Boxes that do not overlap, drawn again until all find room."""
    while True:
        sides = rng.uniform(*_SIDES, number)
        places = rng.uniform(0, 1 - sides, (2, number))
        boxes = [Box(*map(float, square)) for square in zip(*places, sides, strict=True)]
        if not any(_overlap(*pair) for pair in combinations(boxes, 2)):
            return tuple(boxes)


def _overlap(one: Box, other: Box) -> bool:
    return all(one[i] < other[i] + other.side and other[i] < one[i] + one.side for i in (0, 1))


class ScenesDataModule(ImageTextDataModule):
    """Images of some objects, each with three statements, and in test with six.

    Two or three objects lie at free places and have free sizes; each relation has two wordings.

    * existence: "there is a kite".
    * conjunction: "there is a kite and a ghost". Where it is false, one of the two is there.
    * relation: "the kite is left of the ghost" (right of, above, below). Both are always there;
      where it is false, they lie the other way round.

    Half of the statements of each kind are true, and objects of false statements are drawn like
    those of true ones, so neither modality alone is informative. A test image has a true and a
    false one of each kind; its relations name the same two objects, either way round. Pairs of
    objects are divided in 80% / 5% / 15%: no pair that a validation or test statement names is in
    a training image or statement. 15% of the objects are in neither.

    Scenes are drawn from ``scene_seed`` alone. More ``rows`` add scenes to those of fewer. The
    images are drawn once, into the cache folder.

    Args:
        rows: training statements. Validation has 1,512 and test 6,000.
        unseen: what is new in test: ``pairs`` of objects, or the ``objects`` themselves.
        scene_seed: of the division and the scenes; apart from ``seed``, so that runs of several
            seeds share their data.
        **kwargs: as for :class:`~epic_pl.data.datamodule.ImageTextDataModule`.

    Raises:
        ConfigError: options out of range.
    """

    subsets = KINDS

    def __init__(
        self,
        *,
        rows: int = 10_000,
        unseen: Unseen = "pairs",
        scene_seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_at_least(3, rows=rows)
        check_at_least(0, scene_seed=scene_seed)
        check_word(get_args(Unseen), unseen=unseen)
        self.rows = rows
        self.unseen = unseen
        self.scene_seed = scene_seed

    @property
    def class_names(self) -> list[str]:
        """``false`` and ``true``."""
        return ["false", "true"]

    @cached_property
    def _generator(self) -> SceneGenerator:
        names = [thing.name.lower() for thing in vocabulary()]
        return SceneGenerator(names, self.scene_seed)

    @property
    def _image_root(self) -> Path:
        # all that an image follows from, so that none of before is shown with other statements
        source = self._generator.names, self.scene_seed, OPENMOJI.version, _CHUNK
        rules = _VERSION, _SIZES, _SIDES, _PAIR_SHARES, _UNSEEN_OBJECTS
        key = hashlib.sha256(repr((source, rules)).encode()).hexdigest()[:8]
        return cache_dir() / f"scenes-{key}-{self.image_preprocessing.size}px"

    def prepare_data(self) -> None:
        """Draw the images of all splits, once a machine, and show their attribution."""
        super().prepare_data()
        for split in ("train", "val", "test"):
            self._draw(split)
        rank_zero_info(OPENMOJI_ATTRIBUTION)

    def subset_of(self, sample_id: str) -> str:
        """Which kind a row's statement is of."""
        return sample_id.rpartition("-")[2]

    def read_split(self, split: Split) -> Rows:
        """The statements of a split; a row's id ends with its kind."""
        part, number, scenes = self._part(split)
        rows = [
            (f"{part}-{index}-{n}-{said.kind}", image_path(part, index), said.text, int(said.truth))
            for index in range(scenes)
            for n, said in enumerate(self._generator.scene(part, index).statements)
        ]
        ids, images, texts, labels = zip(*rows[:number], strict=True)
        root = self._image_root
        return Rows(sample_table(ids, images, texts, labels), root, root)

    def _part(self, split: Split) -> tuple[str, int, int]:
        """The generator's part of a split, the number of its rows, and of its scenes."""
        rows = _ROWS.get(split, self.rows)
        if split == "test":
            return self.unseen, rows, -(-rows // (2 * len(KINDS)))
        return split, rows, -(-rows // len(KINDS))

    def _draw(self, split: Split) -> None:
        part, _, scenes = self._part(split)
        for start in range(0, scenes, _CHUNK):
            # whole folders, so that a training split of another size finds its own
            fill = partial(self._fill, part, range(start, start + _CHUNK))
            cached_folder(str(Path(self._image_root.name, image_path(part, start)).parent), fill)

    def _fill(self, part: str, indices: range, folder: Path) -> None:
        size = self.image_preprocessing.size
        codes = [thing.code for thing in vocabulary()]
        shown = f"Drawing {part} scenes from {indices.start:,}"
        for index in track(indices, shown, console=Console(stderr=True)):
            objects, boxes = self._generator.scene(part, index).arrangement
            image = compose([codes[thing] for thing in objects], boxes, size)
            image.save(folder / Path(image_path(part, index)).name)


def vocabulary() -> list[Emoji]:
    """Emoji of things with names of one or two words, none of which occurs in another name.

    Every other one of them.
    """
    chosen: list[Emoji] = []
    taken: set[str] = set()
    things = [emoji for emoji in load_emoji() if emoji.category in _CATEGORIES]
    # single words first, so that "cat" is in and "black cat" is not
    for thing in sorted(things, key=lambda thing: thing.name.count(" ")):
        name = thing.name.lower()
        words = set(name.split())
        if re.fullmatch(r"[a-z]+( [a-z]+)?(?<![^s]s)", name) and words.isdisjoint(taken):
            chosen.append(thing)
            taken |= words
    return chosen[::_EVERY]


def image_path(part: str, index: int) -> str:
    """Path of a scene's image, relative to the folder of all scenes."""
    return f"{part}-{index // _CHUNK}/{index}.png"


def compose(codes: Sequence[str], boxes: Sequence[Box], size: int) -> Image.Image:
    """The image of some emoji in their boxes, ``size`` pixels wide, on white."""
    emoji = fetch_openmoji(size // 2)
    image = Image.new("RGB", (size, size), "white")
    for code, box in zip(codes, boxes, strict=True):
        side = round(box.side * size)
        with Image.open(emoji / f"{code}.png") as drawn:
            shown = drawn.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
        image.paste(shown, (round(box.left * size), round(box.top * size)))
    return image
