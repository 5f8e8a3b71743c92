"""Listing, checking and removing stores: one, or all of a folder."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from epic_pl.errors import CacheError
from epic_pl.features.store.reader import FeatureStore
from epic_pl.features.store.shard import is_intact
from epic_pl.features.store.spec import SPEC, StoreSpec

_STORE = re.compile(r"(image|text)-[0-9a-f]{16}")
_SHARD = re.compile(r"shard-[0-9a-f]+\.safetensors")
_FILE = re.compile(rf"\.?({_SHARD.pattern}|spec\.json)(\.partial)?")


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


def verify(folder: Path, remove_corrupt: bool = False) -> list[Path]:
    """Read every file again, print what is damaged, and return it; perhaps remove it.

    `build` writes just the removed files again.

    Raises:
        CacheError: there is no store, or files would be removed behind a link.
    """
    table, damaged = Table("store", "files", "damaged"), []
    stores = find_stores(folder)
    if remove_corrupt:
        _refuse_links(stores)
    for store in stores:
        files = sorted(path for path in store.iterdir() if not path.is_dir())
        paths = [path for path in files if _SHARD.fullmatch(path.name)]
        try:
            spec = StoreSpec.read(store)
            wrong = [path for path in paths if not is_intact(path, spec)]
        except CacheError:  # shards are read again once the spec is written anew
            wrong = [store / SPEC]
        names = ", ".join(path.name for path in wrong)
        table.add_row(store.name, str(len(paths)), f"[red]{names}[/]" if wrong else "none")
        damaged += wrong
    Console().print(table)
    if remove_corrupt:
        for path in damaged:
            path.unlink(missing_ok=True)
    return damaged


def clear(folder: Path) -> None:
    """Remove stores, and no file that is not a store's.

    Raises:
        CacheError: there is none, or one is a link.
    """
    table = Table("removed", "size")
    stores = find_stores(folder)
    _refuse_links(stores)
    for store in stores:
        table.add_row(store.name, decimal(_nbytes(store)))
        (store / SPEC).unlink(missing_ok=True)  # first: without it no store is read
        for path in list(store.iterdir()):
            if _FILE.fullmatch(path.name) and not path.is_dir():
                path.unlink()
        shutil.rmtree(store.with_name(f".{store.name}.locks"), ignore_errors=True)
        if not any(store.iterdir()):
            store.rmdir()
    Console().print(table)


def _refuse_links(stores: Sequence[Path]) -> None:
    """Refuse to remove what lies behind a link: it may be shared, or no store at all."""
    links = [store for store in stores if store.is_symlink()]
    if links:
        raise CacheError(
            f"{links[0]} is a link to {links[0].resolve()}, and nothing is removed behind a link. "
            "Name the folder itself if it is a store, or remove the link."
        )


def _nbytes(store: Path) -> int:
    return sum(path.stat().st_size for path in store.iterdir() if path.is_file())
