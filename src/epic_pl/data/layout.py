"""Where a dataset's files lie: known layouts in turn, and every place named if none fits."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from epic_pl.data.images import IMAGE_SUFFIXES
from epic_pl.errors import DataError


class Layout(NamedTuple):
    """The files that a release of a dataset consists of.

    Attributes:
        name: what users call it.
        needs: paths below the data folder; a folder ends with ``/``, and ``|`` separates places
            where the same thing is found in different copies.
    """

    name: str
    needs: tuple[str, ...]


class Located(NamedTuple):
    """A complete layout, and the path of each entry of ``layout.needs``."""

    layout: Layout
    paths: dict[str, Path]


def locate(
    dataset: str,
    data_dir: str | Path,
    layouts: Sequence[Layout],
    *,
    how_to_get: str,
    nested: Sequence[str] = (),
) -> Located:
    """The first layout that is complete, in ``data_dir`` or in one of the ``nested`` folders."""
    places = [Path(data_dir), *(Path(data_dir) / name for name in nested)]
    for place in places:
        for layout in layouts:
            found = _found(place, layout)
            if len(found) == len(layout.needs):
                return Located(layout, found)
    # the place that has most of it, so that the message lists what is missing there
    best = max(places, key=lambda place: sum(len(_found(place, layout)) for layout in layouts))
    state = "; or ".join(f"{layout.name}: {_state(best, layout)}" for layout in layouts)
    raise DataError(
        f"{dataset} is not complete in {Path(data_dir).absolute()}. Looked in {best} for {state}. "
        f"Also looked in {', '.join(map(str, places))}. How to get it: {how_to_get} If it lies "
        "elsewhere, give its place with --data.init_args.data_dir FOLDER."
    )


def _found(place: Path, layout: Layout) -> dict[str, Path]:
    """The entries of a layout that are there."""
    paths: dict[str, Path] = {}
    for need in layout.needs:
        for path, is_folder in ((place / n, n.endswith("/")) for n in need.split("|")):
            if need not in paths and (path.is_dir() if is_folder else path.is_file()):
                paths[need] = path
    return paths


def _state(place: Path, layout: Layout) -> str:
    found = _found(place, layout)
    return ", ".join(
        f"{need.replace('|', ' or ')} ({'found' if need in found else 'missing'})"
        for need in layout.needs
    )


def image_folder(
    dataset: str, places: Sequence[Path], names: Sequence[str], how_to_get: str
) -> Path:
    """The folder that holds images itself, whether archives nested it once or twice."""
    tried = []
    for outer in (place / name for place in dict.fromkeys(places) for name in names):
        for folder in (outer, *(outer / inner for inner in names)):
            tried.append(str(folder))
            if folder.is_dir() and any(
                name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")
                for name in os.listdir(folder)
            ):
                return folder
    raise DataError(
        f"No images of {dataset}: none of {', '.join(tried)} holds a .jpg or .png. How to get "
        f"them: {how_to_get}"
    )
