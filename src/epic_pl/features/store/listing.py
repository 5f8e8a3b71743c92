"""Lists stores."""

import re
from pathlib import Path

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from epic_pl.errors import CacheError
from epic_pl.features.store.reader import FeatureStore

_STORE = re.compile(r"(image|text)-[0-9a-f]{16}")


def info(folder: Path) -> None:
    """Print a line for the store that a folder is, or else for each store that lies in it.

    Raises:
        CacheError: there is none.
    """
    paths = [folder, *sorted(folder.glob("*"))]
    stores = [path for path in paths if _STORE.fullmatch(path.name) and path.is_dir()]
    if not stores:
        raise CacheError(
            f"There is no feature store in {folder}. `epic-pl cache build` writes one; the folder "
            "is an option of the cache, and EPIC_PL_CACHE moves its default."
        )
    table = Table("store", "encoder", "level", "dtype", "items", "size")
    for path in stores:
        size = decimal(sum(file.stat().st_size for file in path.glob("*") if file.is_file()))
        try:
            store = FeatureStore(path)
        except CacheError as error:
            table.add_row(path.name, f"[red]{escape(str(error))}[/]", "", "", "", size)
            continue
        spec, level = store.spec, escape(str(store.spec.identity.get("level", "-")))
        table.add_row(path.name, escape(spec.encoder), level, spec.dtype, f"{len(store):,}", size)
    Console().print(table)
