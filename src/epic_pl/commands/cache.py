"""``epic-pl cache build`` and ``epic-pl cache info``."""

from collections.abc import Sequence
from pathlib import Path


def build(fit_options: Sequence[str]) -> None:
    """Store the frozen features of every split that a run with these options would read.

    Raises:
        CacheError: if they cannot be written.
    """
    from epic_pl.cli import run
    from epic_pl.experiments.options import feature_cache

    cli = run(["fit", *fit_options], "build")
    feature_cache(cli.trainer).build_stores(cli.trainer, cli.model, cli.datamodule)


def info(folder: Path | None = None) -> None:
    """List the stores of features in a folder.

    Args:
        folder: of stores, or one of them (the stores in the cache folder).

    Raises:
        CacheError: if there is none.
    """
    from epic_pl.features.store.build import default_root
    from epic_pl.features.store.listing import info

    info(folder or default_root())
