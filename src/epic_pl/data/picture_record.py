"""Which pictures of a folder were decoded, and how that went, so that no start does it again."""

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from lightning.pytorch.utilities import rank_zero_info

from epic_pl.data.manifest import manifest_path, read_manifest, write_manifest
from epic_pl.data.tables.pictures import leads_out, missing_pictures, unreadable_pictures
from epic_pl.errors import DataError

_SCHEMA = pa.schema([("image", pa.string()), ("problem", pa.string())])


class PictureRecord:
    """Decoding results of the pictures below one folder, or of one file's arrays, in the cache.

    Args:
        name: readable beginning of the file's name.
        root: folder of the pictures, or the file that holds them.
    """

    def __init__(self, name: str, root: Path) -> None:
        self.root = root.resolve()
        file = (self.root,) if self.root.is_file() else ()  # a changed file is another one
        self.path = manifest_path(name, file, {"pictures_of": str(self.root)})

    def read(self) -> dict[str, str | None]:
        """Picture path to problem, None where it is sound; empty where nothing was recorded."""
        kept = read_manifest(self.path)
        if kept is None or kept[0].schema.remove_metadata() != _SCHEMA:
            return {}
        return dict(zip(*(kept[0][name].to_pylist() for name in _SCHEMA.names), strict=True))

    def add(self, looked_at: Iterable[str], bad: Mapping[str, str]) -> None:
        """Record pictures that were decoded, those in ``bad`` in vain.

        A cache that cannot be written costs time at the next start, no more.
        """
        facts = {**self.read(), **{path: bad.get(path) for path in looked_at}}
        columns = [pa.array(values, pa.string()) for values in (list(facts), list(facts.values()))]
        try:
            write_manifest(self.path, pa.table(columns, schema=_SCHEMA), {})
        except DataError as error:
            rank_zero_info(f"Pictures are decoded again at the next start: {error}")

    def bad_pictures(self, paths: Collection[str], min_size: int | None = None) -> dict[str, str]:
        """Paths that cannot be used, each with what is wrong.

        Whether a file is there is looked up anew. Decoded are those that never were, and those
        that failed, since they may have been mended.

        Args:
            paths: below the folder.
            min_size: see :func:`~epic_pl.data.images.read_image`.
        """
        bad = {path: "it leads out of the folder" for path in paths if leads_out(path, self.root)}
        bad |= missing_pictures([path for path in paths if path not in bad], self.root)
        there = [path for path in paths if path not in bad]
        return bad | self._decoded(
            there, lambda unsure: unreadable_pictures(unsure, self.root, min_size)
        )

    def bad_arrays(self, paths: Collection[str], read: Callable[[str], Any]) -> dict[str, str]:
        """As :meth:`bad_pictures`, for pictures that are no files of their own.

        Args:
            paths: names of the pictures within their file.
            read: reads one of them, or raises a DataError.
        """

        def problem(path: str) -> str | None:
            try:
                read(path)
            except DataError as error:
                return str(error)
            return None

        def unreadable(unsure: Collection[str]) -> dict[str, str]:
            return {path: why for path in unsure if (why := problem(path)) is not None}

        return self._decoded(paths, unreadable)

    def _decoded(
        self, paths: Collection[str], unreadable: Callable[[Collection[str]], dict[str, str]]
    ) -> dict[str, str]:
        """Problems of pictures that are there, decoding what is not known to be sound."""
        known = self.read()
        unsure = [path for path in paths if path not in known or known[path] is not None]
        bad = unreadable(unsure)
        if unsure and bad != {path: known.get(path) for path in unsure}:
            self.add(unsure, bad)
        return bad
