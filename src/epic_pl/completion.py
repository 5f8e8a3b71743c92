"""``epic-pl completion``: a script with which a shell completes commands, options and values."""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, get_args

from epic_pl.config_files import packaged, packaged_configs

# words for an option, whose value may be a file instead
_WORDS = {
    "config": packaged_configs(),
    "ckpt_path": ["best", "last"],
    "variants": packaged("variants"),
    "space": packaged("spaces"),
}
_METHOD_OPTIONS = ("model.method", "methods")


def completion(shell: Literal["bash", "zsh"]) -> None:
    """Print a script with which a shell completes epic-pl; needs shtab.

    In ~/.bashrc: eval "$(epic-pl completion bash)", or keep its output in a file of
    bash-completion.

    Args:
        shell: the shell.
    """
    import shtab

    from epic_pl.cli import trainer_parsers
    from epic_pl.commands.parser import command_parser, takes_more
    from epic_pl.main import COMMANDS, load
    from epic_pl.nn.methods import METHODS

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
        for argument in own._actions:
            hint = getattr(argument, "_typehint", None)
            argument.nargs = "+" if hint == list[str] else argument.nargs
            # words without an option are models, runs or tables
            files = (Path,) if argument.option_strings else (Path, str)
            if any(kind in files for kind in (hint, *get_args(hint))):
                argument.complete = shtab.FILE  # type: ignore[attr-defined]  # shtab's
        parser = groups[group].add_parser(
            last, help=command.summary, parents=[own], conflict_handler="resolve"
        )
        # those of fit that other commands take, too
        if command.module and takes_more(load(name)):
            for option in ("config", *["ckpt_path"] * (name == "explain")):
                parser.add_argument(f"--{option}")
        for option in (*_WORDS, *_METHOD_OPTIONS):
            if action := parser._option_string_actions.get(f"--{option}"):
                function = _function("methods" if option in _METHOD_OPTIONS else f"file_{option}")
                action.complete = {"bash": function, "zsh": function}  # type: ignore[attr-defined]  # shtab's
    preamble: Any = _functions(METHODS)  # typed as a string there, documented as this
    print(shtab.complete(whole, shell, preamble=preamble))


def _function(option: str) -> str:
    """Name of the function that completes an option's value; with ``file_`` folders get a slash."""
    return f"_epic_pl_{option}"


def _functions(methods: Iterable[str]) -> dict[str, str]:
    """These functions, for each shell."""
    listed = {f"file_{option}": " ".join(words) for option, words in _WORDS.items()}
    names, last = " ".join(methods), "${1##*,}"  # of several, joined by commas
    bash = {
        option: f'compgen -W "{words}" -- "$1"; compgen -f -- "$1"'
        for option, words in listed.items()
    }
    bash["methods"] = f'compgen -P "${{1%"{last}"}}" -W "{names}" -- "{last}"'
    zsh = {
        option: f'_alternative "words:word:({words})" "files:file:_files"'
        for option, words in listed.items()
    }
    zsh["methods"] = f"_values -s , method {names}"
    return {
        shell: "\n".join(f"{_function(option)}() {{ {body}; }}" for option, body in bodies.items())
        for shell, bodies in (("bash", bash), ("zsh", zsh))
    }
