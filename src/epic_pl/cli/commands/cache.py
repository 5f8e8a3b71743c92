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
    from rich.filesize import decimal

    from epic_pl.features.store.fill import default_root
    from epic_pl.features.store.reader import FeatureStore
    from epic_pl.features.store.spec import SPEC
    from epic_pl.utils.errors import CacheError, printable

    folder = (folder or default_root()).resolve()
    stores = [path for path in (folder, *sorted(folder.glob("*"))) if (path / SPEC).is_file()]
    if not stores:
        raise CacheError(f"There is no feature store in {folder}: run `epic-pl cache build`.")
    for path in stores:
        size = decimal(sum(file.stat().st_size for file in path.glob("*") if file.is_file()))
        try:
            store = FeatureStore(path, ())  # numbers are verified when a run reads them
        except CacheError as error:
            print(f"{path.name}: {size}, {error}")
            continue
        spec, made = store.spec, store.spec.provenance
        kind = f"{made.get('level', '-')} in {made.get('precision', '-')}, stored in {spec.dtype}"
        print(printable(f"{path.name}: {len(store):,} items, {size}, {kind}, of {spec.encoder}"))
