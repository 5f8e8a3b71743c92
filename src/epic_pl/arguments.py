"""What ``epic-pl data``, ``cache``, ``compare``, ``tune``, ``explain`` and ``export`` take.

Apart from what they start, so that their help imports none of it. Also what those that start
``fit`` many times hand to it.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

from epic_pl.evaluation.explain.command import parser as explain_parser
from epic_pl.evaluation.export.command import parser as export_parser
from epic_pl.inspection.command import parser as data_parser

__all__ = ["data_parser", "explain_parser", "export_parser"]

ONE_DEVICE = ("--trainer.devices=1", "--trainer.num_nodes=1", "--trainer.strategy=auto")
"""Runs that are compared have one batch size, which a second device would change."""
INTERRUPTED = 130
"""The exit code of a command that was stopped: 128 + SIGINT, as shells have it."""


def as_options(values: Mapping[str, Any]) -> list[str]:
    """Arguments of ``fit`` for dotted names and what they are set to."""
    return [
        f"--{name}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in values.items()
    ]


def compare_parser() -> argparse.ArgumentParser:
    """Of ``epic-pl compare``; it takes the options of ``epic-pl fit`` besides."""
    parser = argparse.ArgumentParser(
        "epic-pl compare",
        allow_abbrev=False,
        description=(
            "Train methods with several seeds on the same data and schedule, each run in a process "
            "of its own, and compare accuracy and cost. Takes --config and all other options of "
            "epic-pl fit as well. Runs whose result is there are not repeated."
        ),
    )
    parser.add_argument(
        "--methods", help="names, joined by commas (all methods, and all of --variants)"
    )
    parser.add_argument("--seeds", type=int, default=3, help="how often each (%(default)s)")
    parser.add_argument(
        "--splits", action="store_true", help="cut the data anew for each seed (data.split_seed)"
    )
    parser.add_argument("--variants", metavar="FILE", help="name -> {method, options of fit}")
    parser.add_argument("--reference", help="what the others are tested against (epic)")
    parser.add_argument("--budget", type=float, metavar="MINUTES", help="for everything (no end)")
    parser.add_argument("--output", metavar="DIR", help="folder (runs/compare/CONFIG)")
    parser.add_argument("--jobs", type=int, metavar="N", help="runs at a time (one a GPU, else 1)")
    return parser


def tune_parser() -> argparse.ArgumentParser:
    """Of ``epic-pl tune``; it takes the options of ``epic-pl fit`` besides."""
    parser = argparse.ArgumentParser(
        "epic-pl tune",
        allow_abbrev=False,
        description=(
            "Search options on the validation metric that checkpoint.monitor names; the test split "
            "is never read. Takes --config and all other options of epic-pl fit as well. The same "
            "command goes on where it stopped. Needs the extra `tune`."
        ),
    )
    parser.add_argument("--trials", type=int, default=50, help="in all (%(default)s)")
    parser.add_argument("--minutes", type=float, metavar="M", help="for this command (no end)")
    parser.add_argument("--output", metavar="DIR", help="folder (runs/tune/CONFIG)")
    parser.add_argument(
        "--space", metavar="FILE", help="option -> {low, high, log} or choices (epic.yaml)"
    )
    parser.add_argument(
        "--search_seed", type=int, default=0, metavar="N", help="of what is tried (%(default)s)"
    )
    return parser


def spell_out(args: Sequence[str]) -> list[str]:
    """The trainer's arguments with short forms in full: ``--report DIR`` is of a section."""
    short, full = "--report", "--report.folder"
    return [
        full + arg[len(short) :] if arg == short or arg.startswith(f"{short}=") else arg
        for arg in args
    ]
