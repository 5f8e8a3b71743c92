"""``epic-pl completion``: a script with which a shell completes commands, options and configs."""

import argparse
from importlib import import_module
from typing import Any

from epic_pl.config_files import packaged_configs
from epic_pl.errors import ConfigError

_NAMES = " ".join(packaged_configs())
_CONFIGS = "_epic_pl_configs"
# a config is a packaged one or a file
_PREAMBLE = {
    "bash": f'{_CONFIGS}() {{ compgen -W "{_NAMES}" -- "$1"; compgen -f -- "$1"; }}',
    "zsh": f'{_CONFIGS}() {{ _alternative "configs:config:({_NAMES})" "files:file:_files" }}',
}


def parser() -> argparse.ArgumentParser:
    """Parser of ``epic-pl completion``."""
    parser = argparse.ArgumentParser(
        "epic-pl completion",
        description=(
            "Print a script with which a shell completes epic-pl; needs shtab. In ~/.bashrc: "
            'eval "$(epic-pl completion bash)", or keep its output in a file of bash-completion.'
        ),
    )
    parser.add_argument("shell", choices=sorted(_PREAMBLE))
    return parser


def run(argv: list[str]) -> int:
    """Print the script for a shell.

    Raises:
        ConfigError: shtab is not installed.
    """
    shell = parser().parse_args(argv).shell
    try:
        import shtab
    except ModuleNotFoundError as error:
        raise ConfigError("The script is made by shtab: pip install shtab.") from error
    from epic_pl.cli import trainer_parsers
    from epic_pl.main import COMMANDS

    whole = argparse.ArgumentParser("epic-pl")
    commands = whole.add_subparsers()
    trainers = trainer_parsers()
    for name, command in COMMANDS.items():
        own = trainers.get(name) or import_module(command.module).parser()
        each = commands.add_parser(
            name, help=command.summary, parents=[own], conflict_handler="resolve"
        )
        if name not in trainers:
            each.add_argument("--config")
        each._option_string_actions["--config"].complete = dict.fromkeys(_PREAMBLE, _CONFIGS)  # type: ignore[attr-defined]  # shtab's
    preamble: Any = _PREAMBLE  # typed as a string there, documented as this
    print(shtab.complete(whole, shell, preamble=preamble))
    return 0
