"""``epic-pl cache build`` and ``epic-pl cache info``."""

from collections.abc import Sequence
from pathlib import Path


def build(fit_options: Sequence[str], shard: str | None = None) -> None:
    """Store the frozen features of every split that a run with these options would read.

    Args:
        fit_options: options of epic-pl fit, as for the run.
        shard: part of the work as i/n, such as 3/8, for jobs that do not wait for each other (all).

    Raises:
        CacheError: if the features cannot be written.
    """
    from epic_pl.experiments.options import feature_cache
    from epic_pl.run.epic_cli import build

    module, data, trainer = build(fit_options)
    cache = feature_cache(trainer)
    cache.build_stores(trainer, module, data, shard)
    if trainer.is_global_zero and shard is None:
        print(f"All features are in {cache.root}")


def info(folder: Path | None = None) -> None:
    """List the feature stores in a folder.

    Args:
        folder: folder of feature stores, or one store (the stores in the cache folder).

    Raises:
        CacheError: if there is no store.
    """
    from rich.console import Console
    from rich.filesize import decimal
    from rich.markup import escape
    from rich.table import Column, Table

    from epic_pl.features.store.fill import default_root
    from epic_pl.features.store.reader import FeatureStore
    from epic_pl.features.store.spec import SPEC
    from epic_pl.utils.errors import CacheError

    folder = (folder or default_root()).resolve()
    stores = [path for path in (folder, *sorted(folder.glob("*"))) if (path / SPEC).is_file()]
    if not stores:
        raise CacheError(f"There is no feature store in {folder}: run `epic-pl cache build`.")
    names = ("precision", "level", "dtype", "items", "size")
    columns = (Column(name, no_wrap=True) for name in ("store", *names))
    table = Table(*columns, Column("encoder", overflow="fold"), box=None)
    for path in stores:
        size = decimal(sum(file.stat().st_size for file in path.glob("*") if file.is_file()))
        try:
            store = FeatureStore(path, ())  # numbers are verified when a run reads them
        except CacheError as error:
            table.add_row(path.name, "", "", "", "", size, f"[red]{escape(str(error))}[/]")
            continue
        spec = store.spec
        made = (escape(str(spec.provenance.get(name, "-"))) for name in names[:2])
        table.add_row(path.name, *made, spec.dtype, f"{len(store):,}", size, escape(spec.encoder))
    Console().print(table)
