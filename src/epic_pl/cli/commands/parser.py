"""Parsers of commands, made from the signatures and docstrings of their functions."""

import argparse
import inspect
import re
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any, get_type_hints

from jsonargparse import ArgumentParser

if TYPE_CHECKING:  # made at run time, where a type checker cannot see it
    NonNegativeInt = int
    PositiveInt = int
else:
    from jsonargparse.typing import NonNegativeInt, PositiveInt

__all__ = ["NonNegativeInt", "PositiveInt", "command_parser", "parse_command"]

_OF_FIT = "fit_options"
"""Name of the parameter that takes options of ``epic-pl fit``."""


def command_parser(name: str, function: Callable[..., object]) -> ArgumentParser:
    """Parser of a command.

    Parameters are options; those without a default are positional. A positional list takes all
    words.
    """
    parameters = inspect.signature(function).parameters
    parser = ArgumentParser(
        f"epic-pl {name}",
        description=re.split(r"\n\n(?:Args|Raises):", str(inspect.getdoc(function)))[0],
        epilog="All other options are those of `epic-pl fit`." if _OF_FIT in parameters else None,
        exit_on_error=False,
        allow_abbrev=False,
    )
    hints = get_type_hints(function)
    lists = {key for key in parameters if hints[key] == list[str] and key != _OF_FIT}
    for key in lists:
        parser.add_argument(key, nargs="+", type=str)
    skip: set[str | int] = {_OF_FIT, *lists}
    parser.add_function_arguments(function, as_group=False, as_positional=True, skip=skip)
    return parser


def parse_command(name: str, function: Callable[..., object], argv: Sequence[str]) -> Any:
    """Arguments for ``function`` by name. A flag needs no value, and ``-`` is taken for ``_``.

    If the function takes options of ``fit``, positional arguments come before all options.

    Raises:
        ArgumentError: naming the option.
    """
    hints, parameters = get_type_hints(function), inspect.signature(function).parameters.values()
    of_fit = _OF_FIT in hints
    words = [*takewhile(lambda word: not word.startswith("-"), argv)]
    places = [e.name for e in parameters if e.default is e.empty and e.name != _OF_FIT]
    if "output" in hints and len(words) == 2 and [hints[each] for each in places] == [str]:
        right = f"epic-pl {name} {words[0]} --output {words[1]}"
        raise argparse.ArgumentError(None, f"{words[1]} is one word too many: {right}")
    given = words if of_fit else []
    splitter = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for each in parameters:
        if each.default is not each.empty:
            names = {f"--{each.name}", f"--{each.name.replace('_', '-')}"}
            flag: Any = {"action": "store_true"} if hints[each.name] is bool else {}
            splitter.add_argument(*names, **flag, default=argparse.SUPPRESS)
    own, rest = splitter.parse_known_args(argv[len(given) :])
    options = [f"--{key}={value!s}" for key, value in vars(own).items()]
    more, rest = ({_OF_FIT: rest}, given) if of_fit else ({}, rest)
    return vars(command_parser(name, function).parse_args([*options, *rest])) | more
