"""Training on a table, as the command line does it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from epic_pl.config_files import INIT_CONFIG
from epic_pl.inspection.guess import Roles
from epic_pl.inspection.init import write_config


def fit_table(table: Path, roles: Roles, output: Path, options: Mapping[str, Any]) -> Path:
    """Write a config for a table, run ``epic-pl fit`` with it, and return the run's folder.

    Args:
        table: the file.
        roles: columns that are not guessed.
        output: folder of the config and of the runs.
        options: more options of ``fit``.

    Raises:
        EpicError: with a message for the user.
    """
    from epic_pl.cli import run

    config, _ = write_config(table, force=True, output=output / INIT_CONFIG, roles=roles)
    given = {"trainer.default_root_dir": str(output), **options}
    arguments = [f"--{name}={_written(value)}" for name, value in given.items()]
    trainer = run(["fit", "--config", str(config), *arguments]).trainer
    return Path(str(trainer.log_dir))


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
