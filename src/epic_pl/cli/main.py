"""The ``epic-pl`` command: the table of commands, which are imported only when they run."""

import gc
import inspect
import os
import sys
import textwrap
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import cast

from epic_pl.utils.config_files import packaged
from epic_pl.utils.errors import did_you_mean
from epic_pl.utils.version import __version__

OF_TRAINER = {
    "fit": "train; --ckpt_path PATH resumes, --model.warm_start PATH starts from weights",
    "validate": "metrics on the validation split",
    "test": "metrics on the test split; --report DIR writes a report",
    "predict": "classes and probabilities of each sample, to a file or folder",
}
"""Commands that :mod:`epic_pl.run.epic_cli` parses, and their lines in the help."""
COMMANDS = OF_TRAINER | {
    "explain": "draw the patches and words each prompt attends to",
    "embed": "the encoders' features of a table or a folder, as Parquet",
    "export": "a trained model as a folder that runs on its own",
    "serve": "answer requests over HTTP (extra `serve`)",
    "app": "a page in the browser to try a trained model (extra `app`)",
    "compare": "methods with several seeds: accuracy, cost, significance, plot",
    "tune": "search options on the validation split (extra `tune`)",
    "data check": "can training start?",
    "data init": "write a config for a table",
    "doctor": "versions, devices, encoders; --encoder NAME: which methods work, what it costs",
    "cache build": "store features of the frozen encoders",
    "cache info": "list stored features",
}
"""All commands; those that are not the trainer's are functions called as the name's last word."""
_HELP = """\
usage: epic-pl COMMAND --config NAME [--config OVERLAY] [--OPTION VALUE ...]

Image-text classification with two frozen encoders and 1 to 3% of their size trained.

commands:
{commands}

options; later ones win, configs too:
  --import NAME   import a package of your own, whose methods, losses and encoders may be named
  --config NAME   a file (./NAME where both exist), or a packaged config by its name:
{recipes}
                  overlays, to follow another config:
{overlays}
  epic-pl compare --variants NAME and epic-pl tune --space NAME take a file, or a packaged one:
{others}

more help:
  epic-pl fit --help                        options of trainer, checkpoint, cache, ...
  epic-pl fit --model.help EPICModule       options of the model
  epic-pl fit --model.method.help Parts     options of a method
  epic-pl fit --data.help TableDataModule   options of a dataset
  epic-pl fit --config X --print_config     all options that a run would use
  epic-pl COMMAND --help                    options of the others
  epic-pl --version

example: epic-pl fit --config openmoji.yaml --trainer.max_epochs 10
"""
_HELP_OPTIONS = ("-h", "--help")


def main(args: Sequence[str] | None = None) -> None:
    """Run ``epic-pl``; an error of the user prints one paragraph on stderr and exits with 1.

    Args:
        args: arguments after ``epic-pl``, by default those of the command line.
    """
    argv = [str(arg) for arg in args] if args is not None else sys.argv[1:]
    packages, argv = _packages(argv)
    if not argv or argv[0] in _HELP_OPTIONS:
        print(_help(), end="")
        return
    if argv[0] == "--version":
        print(f"epic-pl {__version__}")
        return
    name = next((name for name in (" ".join(argv[:2]), argv[0]) if name in COMMANDS), "")
    if not name and not argv[0].startswith("-"):
        group = [command for command in COMMANDS if command.startswith(f"{argv[0]} ")]
        if group and set(argv[1:]) <= set(_HELP_OPTIONS):
            for command in group:
                main([*command.split(), "--help"])
            return
        known, word = ", ".join(group or COMMANDS), " ".join(argv[: 1 + bool(group)])
        meant = did_you_mean(word, group or COMMANDS)
        print(f"epic-pl: no command {word!r}; there are {known}.{meant}", file=sys.stderr)
        raise SystemExit(1)
    own, rest = bool(name) and name not in OF_TRAINER, argv[len(name.split()) :]
    if own and _asks_for_help(name, rest):
        from epic_pl.cli.commands.parser import command_parser

        command_parser(name, load(name)).print_help()
        return
    # threads that wait for each other would spin, which takes the processors of other work
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if first := "epic_pl.run.epic_cli" not in sys.modules:
        gc.disable()  # imports leave no garbage, and looking for it takes a fifth of the start
    from epic_pl.run import epic_cli
    from epic_pl.run.error_text import errors_as_text
    from epic_pl.utils.plugins import import_packages

    if first:
        gc.freeze()
        gc.enable()
    with errors_as_text():
        import_packages(packages)
        if own:
            raise SystemExit(call(name, rest))
        epic_cli.run(argv)


def _packages(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The packages that ``--import NAME`` options name, and the other arguments."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--import", dest="packages", nargs="?", const="", action="append")
    given, rest = parser.parse_known_args(argv)
    return given.packages or [], rest


def load(name: str) -> Callable[..., int | None]:
    """Import the function of a command that is not one of the trainer's."""
    words = name.split()
    module = import_module(f"epic_pl.cli.commands.{words[0]}")
    return cast(Callable[..., int | None], getattr(module, words[-1]))


def call(name: str, argv: Sequence[str]) -> int:
    """Call that function with arguments of the command line, and return the exit code."""
    from epic_pl.cli.commands.parser import parse_command

    function = load(name)
    return function(**parse_command(name, function, argv)) or 0


def _asks_for_help(name: str, argv: Sequence[str]) -> bool:
    """Whether to print the help: if it is requested, or required arguments are missing."""
    parameters = inspect.signature(load(name)).parameters.values()
    required = any(parameter.default is parameter.empty for parameter in parameters)
    return (required and not argv) or any(arg in _HELP_OPTIONS for arg in argv)


def _help() -> str:
    return _HELP.format(
        commands="\n".join(f"  {name:<15} {summary}" for name, summary in COMMANDS.items()),
        recipes=_listed(packaged("")),
        overlays=_listed(packaged("overlays")),
        others=_listed([*packaged("variants"), *packaged("spaces")]),
    )


def _listed(names: list[str]) -> str:
    indent = " " * 20
    return textwrap.fill(", ".join(names), 98, initial_indent=indent, subsequent_indent=indent)
