"""Where a dataset's files lie: known layouts tried in turn, and every place named if none fits."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from epic_pl.data.images import PICTURE_SUFFIXES
from epic_pl.errors import DataError


@dataclass(frozen=True)
class Layout:
    """What a release of a dataset consists of.

    Attributes:
        name: what users call it.
        needs: paths below the data folder; a folder ends with ``/``, and ``|`` separates places
            where the same thing is found in different copies.
    """

    name: str
    needs: tuple[str, ...]


@dataclass(frozen=True)
class Located:
    """A layout that is completely there."""

    layout: Layout
    paths: dict[str, Path]
    """Where each entry of ``layout.needs`` lies."""

    def __getitem__(self, need: str) -> Path:
        return self.paths[need]


def locate(
    dataset: str,
    data_dir: str | Path,
    layouts: Sequence[Layout],
    *,
    how_to_get: str,
    nested: Sequence[str] = (),
) -> Located:
    """The first layout that is complete, in ``data_dir`` or in a folder that an archive made there.

    Args:
        dataset: its name, for the message.
        data_dir: where the user says it is.
        layouts: in the order of preference.
        how_to_get: what to download and where to put it, a sentence or two.
        nested: folders below ``data_dir`` to look in as well.

    Raises:
        DataError: none is complete; the message says what is missing of each, and how to get it.
    """
    places = [Path(data_dir), *(Path(data_dir) / name for name in nested)]
    for place in places:
        for layout in layouts:
            paths = {need: _find(place, need) for need in layout.needs}
            found = {need: path for need, path in paths.items() if path is not None}
            if len(found) == len(paths):
                return Located(layout, found)
    # of the places, the one that has most of it tells best what is missing
    best = max(places, key=lambda place: sum(_count(place, layout) for layout in layouts))
    state = "; or ".join(f"{layout.name}: {_state(best, layout)}" for layout in layouts)
    others = [str(place) for place in places if place != best]
    also = f" Also looked in {', '.join(others)}." if others else ""
    exists = "" if Path(data_dir).is_dir() else ", which does not exist"
    raise DataError(
        f"{dataset} is not complete in {data_dir} ({Path(data_dir).absolute()}{exists}). "
        f"Looked in {best} for {state}.{also} How to get it: {how_to_get} If it lies elsewhere, "
        "say so with --data.init_args.data_dir FOLDER."
    )


def _find(place: Path, need: str) -> Path | None:
    for name in need.split("|"):
        path = place / name
        if path.is_dir() if name.endswith("/") else path.is_file():
            return path
    return None


def _count(place: Path, layout: Layout) -> int:
    return sum(_find(place, need) is not None for need in layout.needs)


def _state(place: Path, layout: Layout) -> str:
    return ", ".join(
        f"{need.replace('|', ' or ')} ({'missing' if _find(place, need) is None else 'found'})"
        for need in layout.needs
    )


def picture_folder(
    dataset: str, places: Sequence[Path], names: Sequence[str], how_to_get: str
) -> Path:
    """The folder that holds pictures itself, whether archives nested it once or twice.

    Args:
        dataset: its name, for the message.
        places: where to start from, in turn.
        names: folder names in circulation, tried as ``a`` and ``a/b`` for all a and b of them.
        how_to_get: as for :func:`locate`.

    Raises:
        DataError: no such folder holds a picture.
    """
    tried = []
    for outer in (place / name for place in dict.fromkeys(places) for name in names):
        for folder in (outer, *(outer / inner for inner in names)):
            tried.append(str(folder))
            if folder.is_dir() and _holds_picture(folder):
                return folder
    raise DataError(
        f"No pictures of {dataset}: none of {', '.join(tried)} holds a .jpg or .png. How to get "
        f"them: {how_to_get}"
    )


def _holds_picture(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(
            entry.name.lower().endswith(PICTURE_SUFFIXES) and not entry.name.startswith(".")
            for entry in entries
        )
