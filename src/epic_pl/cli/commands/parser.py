"""Parsers of commands, made from the signatures and docstrings of their functions."""

import inspect
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, get_type_hints

from jsonargparse import ArgumentError, ArgumentParser

if TYPE_CHECKING:  # made at run time, where a type checker cannot see it
    NonNegativeInt = int
    PositiveInt = int
else:
    from jsonargparse.typing import NonNegativeInt, PositiveInt

__all__ = ["NonNegativeInt", "PositiveInt", "command_parser", "parse_command"]

_OF_FIT = "fit_options"
"""The parameter that takes what are options of ``epic-pl fit``."""


def command_parser(name: str, function: Callable[..., object]) -> ArgumentParser:
    """Parser of a command.

    Parameters are options; those without a default are positional, unless they are keyword-only.
    """
    takes_more = _OF_FIT in inspect.signature(function).parameters
    parser = ArgumentParser(
        f"epic-pl {name}",
        description=re.split(r"\n\n(?:Args|Raises):", str(inspect.getdoc(function)))[0],
        epilog="All other options are those of `epic-pl fit`." if takes_more else None,
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_function_arguments(function, as_group=False, as_positional=True, skip={_OF_FIT})
    actions: list[Any] = parser._actions
    for action in actions:  # a list takes several words, not one with a list in it
        if not action.option_strings and get_type_hints(function)[action.dest] == list[str]:
            action.nargs, action.metavar, action._typehint = "+", action.dest, str
    return parser


def parse_command(name: str, function: Callable[..., object], argv: Sequence[str]) -> Any:
    """Arguments for ``function`` by name. A flag needs no value, and ``-`` is taken for ``_``.

    Raises:
        ArgumentError: naming the option.
    """
    kinds, own, rest, words = get_type_hints(function), [], [], list(argv)
    while words:
        word = words.pop(0)
        option, equals, value = word.partition("=")
        kind = kinds.get(option[2:].replace("-", "_")) if option.startswith("--") else None
        if kind is None:
            rest.append(word)
            continue
        if not equals and kind is bool:
            value = words.pop(0) if words[:1] in (["true"], ["false"]) else "true"
        elif not equals:
            if not words or words[0].startswith("--"):
                raise ArgumentError(None, f"{option} needs a value")
            value = words.pop(0)
        own.append(f"--{option[2:].replace('-', '_')}={value}")
    more, rest = ({_OF_FIT: rest}, []) if _OF_FIT in kinds else ({}, rest)
    return vars(command_parser(name, function).parse_args([*own, *rest])) | more
