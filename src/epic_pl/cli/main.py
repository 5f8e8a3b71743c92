"""The ``epic-pl`` command: the table of commands, which are imported only when they run."""

import gc
import inspect
import sys
import textwrap
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import NamedTuple

from epic_pl.utils.config_files import packaged
from epic_pl.utils.errors import did_you_mean
from epic_pl.utils.version import __version__

_TRAINER, _PARSER = "epic_pl.run.epic_cli", "epic_pl.cli.commands.parser"
_ERROR_TEXT, _PLUGINS = "epic_pl.run.error_text", "epic_pl.utils.plugins"
_WRONG_OPTIONS = "epic_pl.run.wrong_options"


class Command(NamedTuple):
    """A command: its line in the help, and the module of its function.

    The function has the last word of the command's name. Commands of the trainer have no module;
    :mod:`epic_pl.run.epic_cli` parses them.
    """

    summary: str
    module: str = ""


COMMANDS = {
    "fit": Command("train; --ckpt_path PATH resumes, --model.warm_start PATH starts from weights"),
    "validate": Command("metrics on the validation split"),
    "test": Command("metrics on the test split; --report DIR writes a report"),
    "predict": Command("classes and probabilities of each sample, to a file or folder"),
    "explain": Command("draw the patches and words each prompt attends to", "cli.commands.explain"),
    "embed": Command(
        "the encoders' features of a table or a folder, as Parquet", "cli.commands.embed"
    ),
    "export": Command("a trained model as a folder that runs on its own", "cli.commands.export"),
    "serve": Command("answer requests over HTTP (extra `serve`)", "cli.commands.serve"),
    "app": Command(
        "a page in the browser to try a trained model (extra `app`)", "cli.commands.app"
    ),
    "compare": Command(
        "methods with several seeds: accuracy, cost, significance, plot",
        "cli.commands.compare",
    ),
    "tune": Command("search options on the validation split (extra `tune`)", "cli.commands.tune"),
    "data check": Command("can training start?", "cli.commands.data"),
    "data init": Command("write a config for a table", "cli.commands.data"),
    "doctor": Command("versions, devices, encoders: can they be reached?", "cli.commands.doctor"),
    "cache build": Command("store features of the frozen encoders", "cli.commands.cache"),
    "cache info": Command("list stored features", "cli.commands.cache"),
}
_HELP = """\
usage: epic-pl COMMAND --config NAME [--config OVERLAY] [--OPTION VALUE ...]

Image-text classification with two frozen encoders and one or two percent of their size trained.

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
    own, rest = bool(name and COMMANDS[name].module), argv[len(name.split()) :]
    if own and _asks_for_help(name, rest):
        import_module(_PARSER).command_parser(name, load(name)).print_help()
        return
    first = _TRAINER not in sys.modules
    if first:  # imports leave no garbage, and looking for it takes a fifth of the start
        gc.disable()
    cli = import_module(_TRAINER)
    if first:
        gc.freeze()
        gc.enable()
    with import_module(_ERROR_TEXT).errors_as_text():
        import_module(_PLUGINS).import_packages(packages)
        if own:
            raise SystemExit(call(name, rest))
        cli.run(argv)


def _packages(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The packages that ``--import NAME`` options name, and the other arguments."""
    packages: list[str] = []
    rest: list[str] = []
    words = iter(argv)
    for word in words:
        option, equals, name = word.partition("=")
        if option == "--import":
            packages.append(name if equals else next(words, ""))
        else:
            rest.append(word)
    return packages, rest


def load(name: str) -> Callable[..., int | None]:
    """Import the function of a command that is not one of the trainer's."""
    function: Callable[..., int | None] = getattr(
        import_module(f"epic_pl.{COMMANDS[name].module}"), name.split()[-1]
    )
    return function


def call(name: str, argv: Sequence[str]) -> int:
    """Call that function with arguments of the command line, and return the exit code."""
    function, errors = load(name), import_module(_WRONG_OPTIONS)
    options = import_module(_PARSER).parse_command(name, function, argv)
    try:
        return function(**options) or 0
    except errors.UnknownOptionError as error:  # an option of `fit` or of the command was meant
        known = [*inspect.signature(function).parameters, *error.known]
        raise errors.UnknownOptionError(error.name, known) from error


def _asks_for_help(name: str, argv: Sequence[str]) -> bool:
    """Whether to print the help: if it is requested, or required arguments are missing."""
    parameters = inspect.signature(load(name)).parameters.values()
    required = any(parameter.default is parameter.empty for parameter in parameters)
    return (required and not argv) or any(arg in _HELP_OPTIONS for arg in argv)


def _help() -> str:
    return _HELP.format(
        commands="\n".join(f"  {name:<15} {command.summary}" for name, command in COMMANDS.items()),
        recipes=_listed(packaged("")),
        overlays=_listed(packaged("overlays")),
        others=_listed([*packaged("variants"), *packaged("spaces")]),
    )


def _listed(names: list[str]) -> str:
    indent = " " * 20
    return textwrap.fill(", ".join(names), 98, initial_indent=indent, subsequent_indent=indent)
