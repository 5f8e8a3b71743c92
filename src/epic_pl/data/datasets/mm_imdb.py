"""MM-IMDB: genres of films from their posters and plots.

J. Arevalo, T. Solorio, M. Montes-y-Gómez, F. A. González, *Gated Multimodal Units for Information
Fusion*, arXiv 1702.01992.
"""

from collections import Counter
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, get_args

from epic_pl.data.datamodule import Split, check_choice
from epic_pl.data.layout import Layout, Located, locate
from epic_pl.data.readers import read_json, string_list
from epic_pl.data.row_cache import cached_rows
from epic_pl.data.rows import Rows, sample_table
from epic_pl.data.rows_datamodule import RowsDataModule
from epic_pl.errors import DataError
from epic_pl.types import Task

Plot = Literal["longest", "first", "all"]

GENRES = (
    "Drama", "Comedy", "Romance", "Thriller", "Crime", "Action", "Adventure", "Horror",
    "Documentary", "Mystery", "Sci-Fi", "Fantasy", "Family", "Biography", "War", "History", "Music",
    "Animation", "Musical", "Western", "Sport", "Short", "Film-Noir",
)  # fmt: skip
"""The 23 genres in their usual order, most frequent first."""
IGNORED_GENRES = frozenset({"News", "Adult", "Talk-Show", "Reality-TV"})
"""Occur in a few films and are no class."""

_SPLIT_KEYS = {"train": ("train",), "val": ("dev", "val"), "test": ("test",)}
_LAYOUTS = (
    Layout("one folder", ("split.json", "dataset/")),
    Layout("two folders", ("split.json", "images/", "labels/")),
)
_HOW_TO_GET = (
    "fetch mmimdb.tar.gz (8 GB, archive.org/details/mmimdb) and unpack it so that the folder holds "
    "split.json and dataset/<id>.json with dataset/<id>.jpeg."
)


class MMIMDBDataModule(RowsDataModule):
    """MM-IMDB: 15,552 / 2,608 / 7,799 films with any number of 23 genres.

    Two layouts: ``split.json`` with ``dataset/<id>.{json,jpeg}``, or with ``images/`` and
    ``labels/``. News, Adult, Talk-Show and Reality-TV are no classes; a film left without a genre
    is dropped and counted.

    Args:
        data_dir: folder of the dataset.
        plot: films have several plots. ``longest`` or ``first`` takes one. ``all`` makes each one a
            training sample; validation and test keep the longest, so that their rows stay the same.
        **kwargs: as for :class:`~epic_pl.data.datamodule.ImageTextDataModule`.
    """

    task: Task = "multilabel"

    def __init__(
        self, *, data_dir: str = "data/mm_imdb", plot: Plot = "longest", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.data_dir = data_dir
        check_choice(get_args(Plot), plot=plot)
        self.plot = plot

    @property
    def text_origin(self) -> str:
        """Which plot."""
        return f"plot:{self.plot}"

    @property
    def class_names(self) -> list[str]:
        """The 23 genres, most frequent first."""
        return list(GENRES)

    @cached_property
    def _found(self) -> Located:
        return locate(
            "MM-IMDB",
            self.data_dir,
            _LAYOUTS,
            how_to_get=_HOW_TO_GET,
            nested=("mmimdb", "data"),
        )

    def read_split(self, split: Split) -> Rows:
        """The rows of a split."""
        one_folder = self._found.layout.name == "one folder"
        films = self._found.paths["dataset/" if one_folder else "labels/"]
        posters = self._found.paths["dataset/" if one_folder else "images/"]
        plot: Plot = "longest" if self.plot == "all" and split != "train" else self.plot
        options = {
            "plot": plot,
            "posters": str(posters.resolve()),
            "split": split,
        }
        lists = self._found.paths["split.json"]
        read = partial(_read, lists, films, posters, split, plot)
        return cached_rows("MMIMDB", [lists, films], options, read)


def _read(lists: Path, films: Path, posters: Path, split: Split, plot: Plot) -> Rows:
    rows: list[tuple[str, str, str | None, list[int]]] = []
    notes: Counter[str] = Counter()
    for film in _film_ids(lists, split):
        path = films / f"{film}.json"
        about = read_json(path)
        genres = _genre_codes(about, path)
        if not genres:
            notes["dropped because no genre is left"] += 1
            continue
        texts = _texts(about, path, plot)
        notes["without a plot"] += texts == [None]
        for number, text in enumerate(texts):
            name = film if number == 0 else f"{film}#{number}"
            rows.append((name, f"{film}.jpeg", text, genres))
    ids, images, texts_of, labels = list(zip(*rows, strict=True)) or [()] * 4
    table = sample_table(ids, images, texts_of, labels, multilabel=True)
    return Rows(table, posters, lists, notes=notes)


def _film_ids(path: Path, split: Split) -> Sequence[str]:
    lists = read_json(path)
    key = next((key for key in _SPLIT_KEYS[split] if key in lists), None)
    if key is None:
        raise DataError(
            f"{path} has no list {' or '.join(_SPLIT_KEYS[split])}, only {', '.join(lists)}. Fetch "
            "the dataset's own file."
        )
    films = lists[key]
    if isinstance(films, list):  # numbers have lost the zeros in front
        films = [f"{each:07d}" if type(each) is int else each for each in films]
    return string_list(films, f"list {key!r}", path)


def _genre_codes(about: dict[str, Any], path: Path) -> list[int]:
    genres = string_list(about.get("genres"), "genres", path)
    unknown = set(genres) - set(GENRES) - IGNORED_GENRES
    if unknown:
        raise DataError(
            f"{path} names a genre that MM-IMDB does not have: {', '.join(sorted(unknown))}. "
            "Unpack it again, or correct it."
        )
    return sorted({GENRES.index(genre) for genre in genres if genre not in IGNORED_GENRES})


def _texts(about: dict[str, Any], path: Path, plot: Plot) -> list[str] | list[None]:
    """The chosen plots; [None] where the film has none."""
    plots = about.get("plot") or []
    plots = string_list([plots] if isinstance(plots, str) else plots, "plot", path)
    if not plots:
        return [None]
    if plot == "all":
        return plots
    return [max(plots, key=len) if plot == "longest" else plots[0]]
