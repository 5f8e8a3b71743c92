"""``epic-pl completion``: a script with which a shell completes commands, options and configs."""

import argparse
from typing import Any, Literal

from epic_pl.config_files import packaged_configs

_NAMES = " ".join(packaged_configs())
_CONFIGS = "_epic_pl_configs"
# a config is a packaged one or a file
_PREAMBLE = {
    "bash": f'{_CONFIGS}() {{ compgen -W "{_NAMES}" -- "$1"; compgen -f -- "$1"; }}',
    "zsh": f'{_CONFIGS}() {{ _alternative "configs:config:({_NAMES})" "files:file:_files" }}',
}


def completion(shell: Literal["bash", "zsh"]) -> None:
    """Print a script with which a shell completes epic-pl; needs shtab.

    In ~/.bashrc: eval "$(epic-pl completion bash)", or keep its output in a file of
    bash-completion.

    Args:
        shell: the shell.
    """
    import shtab

    from epic_pl.cli import trainer_parsers
    from epic_pl.commands.parser import command_parser
    from epic_pl.main import COMMANDS, load

    whole = argparse.ArgumentParser("epic-pl")
    groups = {"": whole.add_subparsers()}
    trainers = trainer_parsers()
    for name, command in COMMANDS.items():
        group, _, last = name.rpartition(" ")
        if group not in groups:
            # a group without a help is not completed
            of_group = groups[""].add_parser(group, help=f"{group} COMMAND")
            groups[group] = of_group.add_subparsers()
        own = trainers.get(name) or command_parser(name, load(name))
        parser = groups[group].add_parser(
            last, help=command.summary, parents=[own], conflict_handler="resolve"
        )
        if "--config" not in parser._option_string_actions:
            parser.add_argument("--config")
        parser._option_string_actions["--config"].complete = dict.fromkeys(_PREAMBLE, _CONFIGS)  # type: ignore[attr-defined]  # shtab's
    preamble: Any = _PREAMBLE  # typed as a string there, documented as this
    print(shtab.complete(whole, shell, preamble=preamble))
