"""Which pictures of a folder were decoded, and how that went, so that no start does it again."""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import pyarrow as pa

from epic_pl.data.manifest import manifest_path, read_manifest, write_manifest
from epic_pl.data.table_pictures import leads_out, missing_pictures, unreadable_pictures

_SCHEMA = pa.schema([("image", pa.string()), ("problem", pa.string())])


class PictureRecord:
    """Decoding results of the pictures below one folder, in the cache.

    Args:
        name: readable beginning of the file's name.
        root: folder of the pictures.
    """

    def __init__(self, name: str, root: Path) -> None:
        self.root = root.resolve()
        self.path = manifest_path(name, (), {"pictures_of": str(self.root)})

    def read(self) -> dict[str, str | None]:
        """Picture path to problem, None where it is sound; empty where nothing was recorded."""
        kept = read_manifest(self.path)
        if kept is None or kept[0].schema.remove_metadata() != _SCHEMA:
            return {}
        return dict(zip(*(kept[0][name].to_pylist() for name in _SCHEMA.names), strict=True))

    def add(self, looked_at: Iterable[str], bad: Mapping[str, str]) -> None:
        """Record pictures that were decoded, those in ``bad`` in vain.

        Raises:
            DataError: the cache cannot be written.
        """
        facts = {**self.read(), **{path: bad.get(path) for path in looked_at}}
        columns = [pa.array(values, pa.string()) for values in (list(facts), list(facts.values()))]
        write_manifest(self.path, pa.table(columns, schema=_SCHEMA), {})

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
        known = self.read()
        there = [path for path in paths if path not in bad]
        unsure = [path for path in there if path not in known or known[path] is not None]
        unreadable = unreadable_pictures(unsure, self.root, min_size)
        if unsure and unreadable != {path: known.get(path) for path in unsure}:
            self.add(unsure, unreadable)
        return bad | unreadable
