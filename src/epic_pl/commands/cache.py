"""``epic-pl cache``: build and list feature stores."""

import argparse
from pathlib import Path


def parser() -> argparse.ArgumentParser:
    """Parser of ``epic-pl cache info``; ``build`` takes the options of ``epic-pl fit``."""
    parser = argparse.ArgumentParser(
        "epic-pl cache",
        description=(
            "Frozen features on the disk. build takes the options of `epic-pl fit` (--config X, "
            "overrides) and stores what it would train on; info takes a folder of stores, by "
            "default the one in the cache folder."
        ),
    )
    parser.add_argument("command", choices=("build", "info"))
    parser.add_argument("folder", nargs="?", type=Path)
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
    options = parser().parse_args(argv)
    # the parser alone needs no torch
    from epic_pl.features.store.build import default_root
    from epic_pl.features.store.listing import info

    info(options.folder or default_root())
    return 0
