"""The ``epic-pl`` command: a table of commands, and no torch before one of them runs."""

import gc
import sys
import textwrap
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple

from epic_pl.config_files import packaged
from epic_pl.version import __version__


class Command(NamedTuple):
    """A command: the module that has it, and its line of the help.

    A module other than :mod:`epic_pl.cli` has ``parser() -> argparse.ArgumentParser`` and
    ``run(argv: list[str]) -> int``, and imports what is heavy inside ``run``.
    """

    module: str
    summary: str
    runs_alone: bool = False
    """Whether it means something without arguments; else that is a call for help."""


_TRAINER = "epic_pl.cli"
COMMANDS = {
    "fit": Command(
        _TRAINER, "train; --ckpt_path PATH resumes, --model.warm_start PATH starts from weights"
    ),
    "validate": Command(_TRAINER, "metrics on the validation split"),
    "test": Command(_TRAINER, "metrics on the test split; --report DIR writes a report"),
    "predict": Command(_TRAINER, "classes and probabilities of each sample, to a file"),
    "explain": Command(
        "epic_pl.commands.explain", "draw the patches and words each prompt attends to"
    ),
    "export": Command(
        "epic_pl.commands.export", "a trained model as a folder that runs on its own"
    ),
    "compare": Command(
        "epic_pl.experiments.compare.command",
        "methods with several seeds: accuracy, cost, significance, plot",
    ),
    "tune": Command(
        "epic_pl.experiments.tune.command", "search options on the validation split (extra `tune`)"
    ),
    "reproduce": Command(
        "epic_pl.experiments.reproduce", "train a run again and compare its metrics and weights"
    ),
    "data": Command(
        "epic_pl.commands.data", "check: can training start? init: write a config for a table"
    ),
    "doctor": Command(
        "epic_pl.inspection.doctor", "versions, devices, disk, encoders: what is wrong here?", True
    ),
    "completion": Command("epic_pl.completion", "a script that completes epic-pl in a shell"),
    "cache": Command(
        "epic_pl.commands.cache", "build, info: stored features of the frozen encoders"
    ),
}
_HELP = """\
usage: epic-pl COMMAND --config NAME [--config OVERLAY] [--OPTION VALUE ...]

Image-text classification with two frozen encoders and one or two percent of their size trained.

commands:
{commands}

options; later ones win, configs too:
  --config NAME   a file (./NAME where both exist), or a packaged config by its name:
{recipes}
                  overlays, to follow another config:
{overlays}
  --trusted-only  for configs of others: refuse classes that could run code
  epic-pl compare --variants NAME and epic-pl tune --space NAME take a file, or a packaged one:
{others}

more help:
  epic-pl fit --help                        options of trainer, model, checkpoint, cache, ...
  epic-pl fit --data.help TableDataModule   options of a dataset
  epic-pl fit --config X --print_config     all options that a run would use
  epic-pl {{{own}}} --help
  epic-pl --version

example: epic-pl fit --config openmoji.yaml --trainer.max_epochs 10
"""
_HELP_OPTIONS = ("-h", "--help")


def main(args: Sequence[str] | None = None) -> None:
    """Run ``epic-pl``; a user's error ends as one paragraph on stderr and exit code 1.

    Args:
        args: arguments after ``epic-pl``, by default those of the command line.
    """
    argv = [str(arg) for arg in args] if args is not None else sys.argv[1:]
    if not argv or argv[0] in _HELP_OPTIONS:
        print(_help(), end="")
        return
    if argv[0] == "--version":
        print(f"epic-pl {__version__}")
        return
    command = COMMANDS.get(argv[0])
    if command is None and not argv[0].startswith("-"):
        print(f"epic-pl: no command {argv[0]!r}; there are {', '.join(COMMANDS)}.", file=sys.stderr)
        raise SystemExit(1)
    module = command.module if command else _TRAINER
    if module != _TRAINER and _asks_for_help(argv):
        import_module(module).parser().parse_known_args(argv[1:] or ["--help"])
    first = _TRAINER not in sys.modules
    if first:  # imports leave no garbage, and looking for it takes a fifth of the start
        gc.disable()
    cli = import_module(_TRAINER)
    if first:
        gc.freeze()
        gc.enable()
    with cli.errors_as_text():
        if module == _TRAINER:
            cli.run(argv)
        else:
            raise SystemExit(import_module(module).run(argv[1:]))


def _help() -> str:
    return _HELP.format(
        commands="\n".join(f"  {name:<15} {each.summary}" for name, each in COMMANDS.items()),
        recipes=_listed(packaged("")),
        overlays=_listed(packaged("overlays")),
        others=_listed([*packaged("variants"), *packaged("spaces")]),
        own=",".join(name for name, each in COMMANDS.items() if each.module != _TRAINER),
    )


def _listed(names: list[str]) -> str:
    indent = " " * 20
    return textwrap.fill(", ".join(names), 98, initial_indent=indent, subsequent_indent=indent)


def _asks_for_help(argv: list[str]) -> bool:
    # `cache build` has all options of fit, which only the full parser knows
    if len(argv) == 1:
        return not COMMANDS[argv[0]].runs_alone
    return argv[:2] != ["cache", "build"] and any(arg in _HELP_OPTIONS for arg in argv)
