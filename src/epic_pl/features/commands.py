"""``epic-pl cache``: build, list, check and remove feature stores."""

import argparse
from pathlib import Path


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
    # the parser alone needs no torch
    from epic_pl.features.store import upkeep
    from epic_pl.features.store.build import default_root

    folder = options.folder or default_root()
    if options.command == "verify":
        return int(bool(upkeep.verify(folder, options.remove_corrupt)))
    {"info": upkeep.info, "clear": upkeep.clear}[options.command](folder)
    return 0
