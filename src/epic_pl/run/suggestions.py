"""The option or class that a misspelt word of a command line may mean."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from jsonargparse import ArgumentParser

from epic_pl.data import ImageTextDataModule
from epic_pl.module import EPICModule, Loss, Method
from epic_pl.utils.config_files import packaged, read_yaml
from epic_pl.utils.errors import did_you_mean
from epic_pl.utils.plugins import known_classes

_CLASSES: dict[str, type] = {
    "model": EPICModule,
    "model.method": Method,
    "model.method.of": Method,  # of the members of an Ensemble
    "model.loss": Loss,
    "data": ImageTextDataModule,
}
"""Options that name a class, and its base."""


def option_names(parser: ArgumentParser) -> list[str]:
    """Full names of the options of a parser, and of all classes that its options may name."""
    names = [*_CLASSES, *parser.get_defaults().keys()]
    for option, base in _CLASSES.items():
        for kind in (base, *known_classes(base).values()):
            of_class = ArgumentParser(exit_on_error=False)
            of_class.add_class_arguments(kind, option, fail_untyped=False)
            names += of_class.get_defaults().keys()
    return list(dict.fromkeys(map(_plain, names)))


def suggestion(words: Sequence[str], parser: ArgumentParser) -> str:
    """A sentence on refused ``words`` and their configs; empty if none of them looks misspelt."""
    names, given = option_names(parser), {_plain(name): value for name, value in _given(words)}
    for name, value in given.items():
        meant = "" if name in names else did_you_mean(name, names)
        if name in _CLASSES and str(value).isidentifier():  # neither a path nor a list
            known: Any = known_classes(_CLASSES[name])
            meant = "" if value in known else did_you_mean(str(value), known)
        if meant:
            return meant
    if {"model", "data"} & {name.split(".")[0] for name in given}:
        return ""
    return (
        " Name model and data by a config, as in `epic-pl fit --config openmoji.yaml`: a file of "
        f"`epic-pl data init`, or one of {', '.join(packaged(''))}."
    )


def _given(words: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Names and values of the options in words and in the configs that they name."""
    for word, following in pairwise([*words, ""]):
        option, equals, value = word.partition("=")
        value = value if equals else following
        if option in ("--config", "-c"):
            yield from _flat(read_yaml(value))
        elif option.startswith("--"):
            yield option[2:], value


def _flat(content: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Names and values of the options in the content of a config."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield from _flat(value, f"{name}.{key}")
    else:
        yield name, content


def _plain(name: str) -> str:
    """The name of an option without what the parser adds to those of a class."""
    added = ("", "class_path", "init_args", "help")
    return ".".join(part for part in name.split(".") if part not in added)
