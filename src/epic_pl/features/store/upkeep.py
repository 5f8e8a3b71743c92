"""Listing, checking and removing stores: one, or all of a folder."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from epic_pl.errors import CacheError
from epic_pl.features.store.manifest import MANIFEST, SPEC, Manifest, size_of
from epic_pl.features.store.shard import sha256_of
from epic_pl.features.store.spec import StoreSpec

_STORE = re.compile(r"(image|text)-[0-9a-f]{16}")
_FILE = re.compile(r"(shard-.*|index-.*)\.bin|\..*\.partial")


@dataclass(frozen=True)
class StoreInfo:
    """Summary of one store.

    Attributes:
        folder: the store's.
        spec: what it holds; None where it cannot be read.
        items: number of items; 0 unless complete.
        nbytes: bytes of all its files.
        problem: what is missing or wrong, else empty.
    """

    folder: Path
    spec: StoreSpec | None
    items: int
    nbytes: int
    problem: str = ""


@dataclass(frozen=True)
class StoreCheck:
    """Result of reading one store again.

    Attributes:
        folder: the store's.
        files: number of files that were read.
        corrupt: files that are missing, truncated or changed.
        problem: what is wrong, else empty.
    """

    folder: Path
    files: int
    corrupt: tuple[Path, ...] = ()
    problem: str = ""


def find_stores(folder: Path) -> list[Path]:
    """The folder itself if it is a store, else the stores that lie directly in it.

    Raises:
        CacheError: there is neither.
    """
    if _STORE.fullmatch(folder.name) and folder.is_dir():
        return [folder]
    stores = [path for path in sorted(folder.glob("*")) if _STORE.fullmatch(path.name)]
    if not stores:
        raise CacheError(
            f"There is no feature store in {folder}. `epic-pl cache build` writes one; the folder "
            "is an option of the cache, and EPIC_PL_CACHE moves its default."
        )
    return stores


def info(folder: Path, console: Console | None = None) -> list[StoreInfo]:
    """Print and return a summary of each store.

    Raises:
        CacheError: there is none.
    """
    found = [_inspect(store) for store in find_stores(folder)]
    table = Table("store", "encoder", "level", "dtype", "items", "size", "an item", "state")
    for store in found:
        spec = store.spec
        table.add_row(
            store.folder.name,
            spec.encoder if spec else "-",
            str(spec.identity.get("level", "-")) if spec else "-",
            spec.dtype if spec else "-",
            f"{store.items:,}",
            decimal(store.nbytes),
            decimal(store.nbytes // store.items) if store.items else "-",
            f"[red]{escape(store.problem)}[/]" if store.problem else "complete",
        )
    (console or Console()).print(table)
    return found


def verify(
    folder: Path, console: Console | None = None, remove_corrupt: bool = False
) -> list[StoreCheck]:
    """Read every file again, compare checksums, and print and return what differs.

    Args:
        folder: a store, or a folder of stores.
        console: where to print; default standard output.
        remove_corrupt: remove corrupt files, so that `build` writes just these again.

    Raises:
        CacheError: there is no store.
    """
    checks = [_check(store) for store in find_stores(folder)]
    table = Table("store", "files", "result")
    for check in checks:
        result = f"[red]{escape(check.problem)}[/]" if check.problem else "ok"
        table.add_row(check.folder.name, str(check.files), result)
        if remove_corrupt:
            for path in check.corrupt:
                path.unlink(missing_ok=True)
    (console or Console()).print(table)
    return checks


def clear(folder: Path, console: Console | None = None) -> int:
    """Remove stores, and no file that is not a store's; returns the number of freed bytes.

    Raises:
        CacheError: there is none.
    """
    freed = 0
    table = Table("removed", "size")
    for store in find_stores(folder):
        size = _nbytes(store)
        # the manifest first: a store that is half removed must not look complete
        for name in (MANIFEST, SPEC):
            (store / name).unlink(missing_ok=True)
        for path in list(store.iterdir()):
            if _FILE.fullmatch(path.name):
                path.unlink()
        shutil.rmtree(store.with_name(f".{store.name}.locks"), ignore_errors=True)
        if not any(store.iterdir()):
            store.rmdir()
        freed += size
        table.add_row(store.name, decimal(size))
    (console or Console()).print(table)
    return freed


def _inspect(store: Path) -> StoreInfo:
    size, spec = _nbytes(store), None
    try:
        spec = StoreSpec.read(store / SPEC)
        manifest = Manifest.read(store)
    except CacheError as error:
        return StoreInfo(store, spec, 0, size, str(error))
    if manifest is None:
        shards = len(list(store.glob("shard-*.bin")))
        return StoreInfo(store, spec, 0, size, f"incomplete, {shards} shards written")
    broken = manifest.broken(store)
    problem = f"missing or truncated: {', '.join(broken)}" if broken else ""
    return StoreInfo(store, manifest.spec, manifest.index.items, size, problem)


def _check(store: Path) -> StoreCheck:
    try:
        manifest = Manifest.read(store)
    except CacheError as error:
        return StoreCheck(store, 0, problem=str(error))
    if manifest is None:
        return StoreCheck(store, 0, problem="incomplete: continue with `epic-pl cache build`")
    entries = [*manifest.shards, manifest.index]
    corrupt = tuple(
        store / entry.name
        for entry in entries
        if size_of(store / entry.name) != entry.nbytes
        or not _is_intact(store / entry.name, entry.sha256, 0 if entry is manifest.index else 32)
    )
    problem = f"corrupt: {', '.join(path.name for path in corrupt)}" if corrupt else ""
    return StoreCheck(store, len(entries), corrupt, problem)


def _is_intact(path: Path, sha256: str, tail: int) -> bool:
    """Compare a file with its checksum, which a shard repeats in its last 32 bytes."""
    with path.open("rb") as file:
        same = sha256_of(file, path.stat().st_size - tail).hex() == sha256
        return same and (not tail or file.read().hex() == sha256)


def _nbytes(store: Path) -> int:
    return sum(path.stat().st_size for path in store.iterdir() if path.is_file())
