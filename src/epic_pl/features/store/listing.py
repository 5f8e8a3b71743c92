"""Lists stores: one, or all of a folder."""

import re
from pathlib import Path

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from epic_pl.errors import CacheError
from epic_pl.features.store.reader import FeatureStore

_STORE = re.compile(r"(image|text)-[0-9a-f]{16}")


def find_stores(folder: Path) -> list[Path]:
    """The folder itself if it is a store, else the stores that lie directly in it.

    Raises:
        CacheError: there is neither.
    """
    if _STORE.fullmatch(folder.name) and folder.is_dir():
        return [folder]
    paths = sorted(folder.glob("*"))
    stores = [path for path in paths if _STORE.fullmatch(path.name) and path.is_dir()]
    if not stores:
        raise CacheError(
            f"There is no feature store in {folder}. `epic-pl cache build` writes one; the folder "
            "is an option of the cache, and EPIC_PL_CACHE moves its default."
        )
    return stores


def info(folder: Path) -> None:
    """Print a line for each store.

    Raises:
        CacheError: there is none.
    """
    table = Table("store", "encoder", "level", "dtype", "items", "size")
    for path in find_stores(folder):
        size = decimal(_nbytes(path))
        try:
            store = FeatureStore(path)
        except CacheError as error:
            table.add_row(path.name, f"[red]{escape(str(error))}[/]", "", "", "", size)
            continue
        spec, level = store.spec, escape(str(store.spec.identity.get("level", "-")))
        table.add_row(path.name, escape(spec.encoder), level, spec.dtype, f"{len(store):,}", size)
    Console().print(table)


def _nbytes(store: Path) -> int:
    return sum(path.stat().st_size for path in store.iterdir() if path.is_file())
