"""The search for the wrong option of a command line that a parser has refused."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from epic_pl.utils.config_files import read_yaml
from epic_pl.utils.errors import did_you_mean

_OF_CLASSES = ("", "class_path", "init_args", "help")


def given_options(words: Sequence[str]) -> dict[str, Any]:
    """Full names and values of the options on a command line and in its configs.

    Names are without what the parser adds to those of a class; later values win.
    """
    given: dict[str, Any] = {}
    for name, value in _each(words):
        if given.get(name) != value:  # another class drops the options of an earlier one
            given = {key: old for key, old in given.items() if not key.startswith(f"{name}.")}
        given[name] = value
    return given


def _each(words: Sequence[str]) -> Iterator[tuple[str, Any]]:
    for word, following in pairwise([*words, ""]):
        option, equals, value = word.partition("=")
        value = value if equals else following
        if option in ("--config", "-c"):
            yield from _flat(read_yaml(value), "")
        elif option.startswith("--"):
            content: Any = value
            with suppress(yaml.YAMLError, RecursionError):
                content = yaml.safe_load(value) if value.startswith("{") else value
            yield from _flat(content, option[2:])


def _flat(content: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield from _flat(value, f"{name}.{key}")
    else:
        yield ".".join(part for part in name.split(".") if part not in _OF_CLASSES), content


class UnknownOptionError(ArgumentError):
    """There is no option ``name``; ``known`` are the names that there are."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        self.name, self.known = name, [*known]
        super().__init__(None, f"There is no option {name}.{did_you_mean(name, self.known)}")


def explain(given: Mapping[str, Any], types: Mapping[str, Any]) -> None:
    """Raise an error for the first given option that is unknown or has another type.

    Args:
        given: names and values of the options, from :func:`given_options`.
        types: the type of each option that there is, None for a section.

    Raises:
        ArgumentError: naming the option, and what was probably meant.
    """
    for name, value in given.items():
        parents = [name[:end] for end, letter in enumerate(name) if letter == "."]
        if any(types.get(parent) for parent in parents) or ".dict_kwargs" in name:
            continue  # inside a list or dictionary, or of a class that takes any option
        if name not in types:
            raise UnknownOptionError(name, types)
        kind = types[name]
        if kind and not isinstance(value, list) and not _fits(kind, value):
            kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
            must = " or ".join(_in_words(part) for part in kinds if part is not type(None))
            choices = [word for part in kinds for word in get_args(part) if isinstance(word, str)]
            meant = did_you_mean(str(value), choices)
            raise ArgumentError(None, f"{name} is {value!r}, but must be {must}.{meant}")


def _fits(kind: Any, value: Any) -> bool:
    parser = ArgumentParser(exit_on_error=False)
    with suppress(ValueError):  # a type of which the parser knows nothing
        parser.add_argument("--value", type=kind)
        try:
            parser.parse_object({"value": value})
        except ArgumentError:
            return False
    return True


def _in_words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(repr, get_args(kind)))}"
    named = kind if get_args(kind) else getattr(kind, "__name__", kind)
    return kind.__doc__ if " restricted to " in str(kind.__doc__) else f"of type {named}"
