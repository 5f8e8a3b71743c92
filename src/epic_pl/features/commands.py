"""What ``epic-pl cache info``, ``verify`` and ``clear`` do, on one store or on a folder of them."""

import argparse
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from epic_pl.assets import cache_dir
from epic_pl.errors import CacheError
from epic_pl.features.spec import StoreSpec
from epic_pl.features.store.manifest import MANIFEST, SPEC, Manifest, size_of
from epic_pl.features.store.shard import sha256_of

_STORE = re.compile(r"(image|text)-[0-9a-f]{16}")
_OURS = re.compile(r"(shard-.*|index-.*)\.bin|\..*\.partial")


@dataclass(frozen=True)
class StoreInfo:
    """One store at a glance.

    Attributes:
        folder: the store's.
        spec: what it holds; None where it cannot be read.
        items: number of items; 0 unless complete.
        nbytes: bytes of all its files, whole or not.
        complete: it has its manifest, and all files of it in full size.
        problem: what is wrong, else empty.
    """

    folder: Path
    spec: StoreSpec | None
    items: int
    nbytes: int
    complete: bool
    problem: str = ""


@dataclass(frozen=True)
class StoreCheck:
    """Result of reading one store again.

    Attributes:
        folder: the store's.
        files: number of files that were read.
        corrupt: files that are missing, truncated or changed.
        problem: why it could not be checked, else empty.
    """

    folder: Path
    files: int
    corrupt: tuple[Path, ...] = ()
    problem: str = ""

    @property
    def ok(self) -> bool:
        """Everything is as it was written."""
        return not self.corrupt and not self.problem


def default_root() -> Path:
    """Where feature stores are kept unless told otherwise."""
    return cache_dir() / "features"


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
    """Print what stores there are.

    Raises:
        CacheError: there is none.
    """
    found = [_inspect(store) for store in find_stores(folder)]
    table = Table("store", "encoder", "level", "dtype", "items", "size", "an item", "state")
    for store in found:
        identity = store.spec.identity if store.spec else {}
        each = decimal(store.nbytes // store.items) if store.items else "-"
        state = "complete" if store.complete else f"[red]{escape(store.problem)}[/]"
        table.add_row(
            store.folder.name,
            str(identity.get("encoder", "-")),
            str(identity.get("level", "-")),
            store.spec.dtype if store.spec else "-",
            f"{store.items:,}",
            decimal(store.nbytes),
            each,
            state,
        )
    _print(console, table)
    return found


def verify(
    folder: Path, console: Console | None = None, remove_corrupt: bool = False
) -> list[StoreCheck]:
    """Read every file again, compare checksums, and print what differs.

    Args:
        folder: a store, or a folder of stores.
        console: where to print; default standard output.
        remove_corrupt: remove corrupt shards, so that `build` writes just these again.

    Raises:
        CacheError: there is no store.
    """
    checks = [_check(store) for store in find_stores(folder)]
    table = Table("store", "files", "result")
    for check in checks:
        names = ", ".join(path.name for path in check.corrupt)
        bad = check.problem or f"corrupt: {names}"
        table.add_row(
            check.folder.name, str(check.files), "ok" if check.ok else f"[red]{escape(bad)}[/]"
        )
        if remove_corrupt:
            for path in check.corrupt:
                path.unlink(missing_ok=True)
    _print(console, table)
    return checks


def clear(folder: Path, console: Console | None = None) -> int:
    """Remove stores, and nothing that is not a store's; returns the bytes that it freed.

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
            if _OURS.fullmatch(path.name):
                path.unlink()
        shutil.rmtree(store.with_name(f".{store.name}.locks"), ignore_errors=True)
        if not any(store.iterdir()):
            store.rmdir()
        freed += size
        table.add_row(store.name, decimal(size))
    _print(console, table)
    return freed


def _inspect(store: Path) -> StoreInfo:
    size, spec = _nbytes(store), None
    try:
        spec = StoreSpec.read(store / SPEC)
        manifest = Manifest.read(store)
    except CacheError as error:
        return StoreInfo(store, spec, 0, size, False, str(error))
    if manifest is None:
        shards = len(list(store.glob("shard-*.bin")))
        return StoreInfo(store, spec, 0, size, False, f"incomplete, {shards} shards written")
    broken = manifest.broken(store)
    problem = f"missing or truncated: {', '.join(broken)}" if broken else ""
    return StoreInfo(store, manifest.spec, manifest.index.items, size, not broken, problem)


def _check(store: Path) -> StoreCheck:
    try:
        manifest = Manifest.read(store)
    except CacheError as error:
        return StoreCheck(store, 0, problem=str(error))
    if manifest is None:
        return StoreCheck(store, 0, problem="incomplete: go on with `epic-pl cache build`")
    entries = [*manifest.shards, manifest.index]
    corrupt = []
    for entry in entries:
        path = store / entry.name
        tail = 0 if entry is manifest.index else 32
        if size_of(path) != entry.nbytes or not _is_intact(path, entry.sha256, tail):
            corrupt.append(path)
    return StoreCheck(store, len(entries), tuple(corrupt))


def _is_intact(path: Path, sha256: str, tail: int) -> bool:
    """Compare a file with its checksum, which a shard repeats in its last 32 bytes."""
    with path.open("rb") as file:
        same = sha256_of(file, path.stat().st_size - tail).hex() == sha256
        return same and (not tail or file.read().hex() == sha256)


def _nbytes(store: Path) -> int:
    return sum(path.stat().st_size for path in store.iterdir() if path.is_file())


def _print(console: Console | None, what: Any) -> None:
    (console or Console()).print(what)


def parser() -> argparse.ArgumentParser:
    """Of ``epic-pl cache {info,verify,clear}``; build takes the options of ``epic-pl fit``."""
    parser = argparse.ArgumentParser(
        "epic-pl cache",
        description=(
            "Frozen features on the disk. build takes the options of `epic-pl fit` (--config X, "
            "overrides) and stores what it would train on; the others take a folder of stores, by "
            "default the one in the cache folder."
        ),
    )
    parser.add_argument("command", choices=("build", "info", "verify", "clear"))
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument(
        "--remove-corrupt", action="store_true", help="verify: remove files that are damaged"
    )
    return parser


def run(argv: list[str]) -> int:
    """Run ``epic-pl cache ARGV`` and return the exit code.

    Raises:
        CacheError: there is no store, or it cannot be written.
    """
    if argv[:1] == ["build"]:
        from epic_pl.cli import fill_cache

        fill_cache(argv[1:])
        return 0
    options = parser().parse_intermixed_args(argv)  # FOLDER may follow an option
    folder = options.folder or default_root()
    if options.command == "info":
        return 0 if all(store.complete for store in info(folder)) else 1
    if options.command == "verify":
        checks = verify(folder, remove_corrupt=options.remove_corrupt)
        return 0 if all(check.ok for check in checks) else 1
    clear(folder)
    return 0
