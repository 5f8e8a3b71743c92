"""Entry point of ``epic-pl``: answers for itself what needs no torch, and loads the rest to run."""

import gc
import sys
import textwrap
from collections.abc import Callable, Sequence

from epic_pl import __version__
from epic_pl.arguments import (
    compare_parser,
    data_parser,
    explain_parser,
    export_parser,
    tune_parser,
)
from epic_pl.config_files import ablations, overlays, recipes
from epic_pl.features.commands import parser as cache_parser

_HELP = """\
usage: epic-pl COMMAND --config NAME [--config OVERLAY] [--OPTION VALUE ...]

Image-text classification with two frozen encoders and a percent of their size trained (EPIC).

training and use:
  fit             train; --ckpt_path PATH resumes, --model.warm_start PATH starts from weights
  validate        metrics on the validation split
  test            metrics on the test split; --report DIR writes where and why it fails
  predict         classes and probabilities of each sample, to a file
  explain         patches and words that each prompt attends to, drawn for single samples
  export          a trained model as a folder that runs without this package
  compare         all methods with several seeds: accuracy, cost, significance, plot
  tune            search learning rates and other options on validation (extra `tune`)

data and stored features:
  epic-pl data check --config X             read a dataset once: can training start?
  epic-pl data init DIR                     look at a table and write a config for it
  epic-pl cache build --config X            store what the frozen encoders give, ahead of a run
  epic-pl cache {{info,verify,clear}} [FOLDER]

options, of which later ones win (configs too):
  --config NAME   a file, or a packaged config by its name:
{recipes}
                  overlays, to follow another one:
{overlays}
                  ablations, overlays that set one option of EPIC:
{ablations}
  epic-pl fit --help                        all of them: trainer, model, checkpoint, cache, ...
  epic-pl fit --data.help TableDataModule   those of a dataset
  epic-pl fit --config X --print_config     what a run would use

  epic-pl --version, epic-pl {{data,cache,compare,tune,explain,export}} --help

example: epic-pl fit --config openmoji.yaml --trainer.max_epochs 10
"""
_ASKS_FOR_HELP = ("-h", "--help")


def main(args: Sequence[str] | None = None) -> None:
    """Run ``epic-pl``: our errors end as one paragraph on stderr and exit code 1.

    Args:
        args: what follows ``epic-pl``; from the command line by default.
    """
    argv = [str(arg) for arg in args] if args is not None else sys.argv[1:]
    if not argv or argv[0] in _ASKS_FOR_HELP:
        listed = {"recipes": recipes(), "overlays": overlays(), "ablations": ablations()}
        print(_HELP.format(**{kind: _listed(names) for kind, names in listed.items()}), end="")
    elif argv[0] == "--version":
        print(f"epic-pl {__version__}")
    elif argv[0] == "data" and _wants_help(argv[1:]):
        data_parser().parse_known_args(argv[1:] or ["--help"])
    elif argv[0] == "cache" and _wants_help(argv[1:]):
        cache_parser().parse_args(argv[1:] or ["--help"])
    elif argv[0] == "compare" and _wants_help(argv[1:]):
        compare_parser().parse_known_args(argv[1:] or ["--help"])
    elif argv[0] == "tune" and _wants_help(argv[1:]):
        tune_parser().parse_known_args(argv[1:] or ["--help"])
    elif argv[0] == "explain" and _wants_help(argv[1:]):
        explain_parser().parse_known_args(argv[1:] or ["--help"])
    elif argv[0] == "export" and _wants_help(argv[1:]):
        export_parser().parse_args(argv[1:] or ["--help"])
    else:
        _runner()(argv)


def _listed(names: list[str]) -> str:
    indent = " " * 20
    return textwrap.fill(", ".join(names), 98, initial_indent=indent, subsequent_indent=indent)


def _wants_help(rest: list[str]) -> bool:
    # `cache build` has all options of fit, which only the full parser knows
    return not rest or (rest[0] != "build" and any(arg in _ASKS_FOR_HELP for arg in rest))


def _runner() -> Callable[[list[str]], None]:
    """What runs a command, with torch, Lightning and all that trains."""
    # what modules leave behind is no garbage: looking through it, now and at every later
    # collection, takes a fifth of the start
    pause = gc.isenabled() and "epic_pl.commands" not in sys.modules
    if pause:
        gc.disable()
    from epic_pl.commands import run_command

    if pause:
        gc.freeze()
        gc.enable()
    return run_command
