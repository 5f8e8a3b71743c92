"""MM-IMDB: genres of films from their posters and plots.

J. Arevalo, T. Solorio, M. Montes-y-Gómez, F. A. González, *Gated Multimodal Units for Information
Fusion*, arXiv 1702.01992.
"""

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from epic_pl.data.datamodule import ImageTextDataModule, Split
from epic_pl.data.datasets.annotations import find_path, string_list
from epic_pl.data.row_cache import cached_rows
from epic_pl.data.rows import Rows, sample_table
from epic_pl.utils.errors import DataError
from epic_pl.utils.files import read_json
from epic_pl.utils.types import Task

GENRES = (
    "Drama", "Comedy", "Romance", "Thriller", "Crime", "Action", "Adventure", "Horror",
    "Documentary", "Mystery", "Sci-Fi", "Fantasy", "Family", "Biography", "War", "History", "Music",
    "Animation", "Musical", "Western", "Sport", "Short", "Film-Noir",
)  # fmt: skip
"""The 23 genres in their usual order, most frequent first."""
IGNORED_GENRES = frozenset({"News", "Adult", "Talk-Show", "Reality-TV"})
"""Genres of a few films, which are no classes."""

_HOW_TO_GET = (
    "fetch mmimdb.tar.gz (8 GB, archive.org/details/mmimdb) and unpack it so that the folder holds "
    "split.json and dataset/<id>.json with dataset/<id>.jpeg."
)


class MMIMDBDataModule(ImageTextDataModule):
    """MM-IMDB: 15,552 / 2,608 / 7,799 films with any number of 23 genres.

    There are two layouts: ``split.json`` with ``dataset/<id>.{json,jpeg}``, or ``split.json`` with
    ``images/`` and ``labels/``. The text is a film's longest plot. News, Adult, Talk-Show and
    Reality-TV are no classes; films that have only these genres are dropped and counted.

    Args:
        data_dir: folder of the dataset.
        **kwargs: arguments of :class:`~epic_pl.data.datamodule.ImageTextDataModule`.

    Example:
        >>> data = MMIMDBDataModule(image_encoder="tiny-vit", text_encoder="tiny-bert")
        >>> data.task, data.num_classes, data.class_names[:2]
        ('multilabel', 23, ['Drama', 'Comedy'])
    """

    task: Task = "multilabel"
    text_origin = "plot:longest"

    def __init__(self, *, data_dir: str = "data/mm_imdb", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.data_dir = data_dir

    @property
    def class_names(self) -> list[str]:
        """The 23 genres, most frequent first."""
        return list(GENRES)

    def read_split(self, split: Split) -> Rows:
        """The rows of a split."""
        lists = find_path(self.data_dir, ["split.json"], _HOW_TO_GET)
        films = find_path(lists.parent, ["dataset", "labels"], _HOW_TO_GET)
        posters = films if films.name == "dataset" else films.with_name("images")
        read = partial(_read, lists, films, posters, "dev" if split == "val" else split)
        options = {"split": split, "posters": str(posters.resolve())}
        return cached_rows("MMIMDB", [lists, films], options, read)


def _read(lists: Path, films: Path, posters: Path, split: str) -> Rows:
    rows: list[tuple[str, str, str | None, list[int]]] = []
    notes: Counter[str] = Counter()
    names = read_json(lists)
    if split not in names:
        raise DataError(f"{lists} has no list {split}, only {', '.join(names)}. Fetch it again.")
    for film in string_list(names[split], f"list {split!r}", lists):
        path = films / f"{film}.json"
        about = read_json(path)
        genres = _genre_codes(about, path)
        plots = string_list(about.get("plot") or [], "plot", path)
        notes["films dropped because no genre is left"] += not genres
        notes["films without a plot"] += bool(genres) and not plots
        if genres:
            rows.append((film, f"{film}.jpeg", max(plots, key=len, default=None), genres))
    ids, images, texts, labels = list(zip(*rows, strict=True)) or [()] * 4
    table = sample_table(ids, images, texts, labels, multilabel=True)
    return Rows(table, posters, lists, notes=notes)


def _genre_codes(about: dict[str, Any], path: Path) -> list[int]:
    genres = set(string_list(about.get("genres"), "genres", path))
    if unknown := genres - set(GENRES) - IGNORED_GENRES:
        raise DataError(f"{path} names a genre unknown to MM-IMDB: {', '.join(sorted(unknown))}.")
    return sorted(GENRES.index(genre) for genre in genres - IGNORED_GENRES)
