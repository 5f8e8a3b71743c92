"""Search of classes by name, also of other packages: by import path, or by entry point."""

import warnings
from collections.abc import Iterable
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from inspect import isabstract
from typing import TypeVar

from epic_pl.utils.errors import ConfigError, UntrustedError, did_you_mean, first_line, raised_as

ENTRY_POINTS = "epic_pl.plugins"
"""Group of the entry points of installed plug-ins, whose modules are imported."""

IMPORTED: list[str] = []
"""Packages that the user has named, for processes that this one starts."""

Kind = TypeVar("Kind")


@cache
def load_plugins() -> str:
    """Import all installed plug-ins, once; returns what is wrong with those that fail."""
    failures = []
    for point in entry_points(group=ENTRY_POINTS):
        try:
            point.load()
        except Exception as error:  # whatever another package raises
            what = f"The installed plug-in {point.name!r} ({point.value}) cannot be imported"
            failures.append(f"{what}: {first_line(error)}. Mend it, or uninstall it.")
            warnings.warn(failures[-1], stacklevel=2)
    return "".join(f" {failure}" for failure in failures)


def import_packages(names: Iterable[str]) -> None:
    """Import packages that the caller trusts, so that files may name their classes.

    Raises:
        ConfigError: if one cannot be imported.
    """
    for name in names:
        if not name:
            raise ConfigError("--import needs the name of a package.")
        _import(name, f"The package {name!r}")
        IMPORTED.append(name)


def name_of(kind: type) -> str:
    """The name of a class in files: its class name in this package, else its import path."""
    path = f"{kind.__module__}.{kind.__qualname__}"
    return kind.__name__ if path.startswith("epic_pl.") else path


def known_classes(base: type[Kind]) -> dict[str, type[Kind]]:
    """All imported subclasses of ``base`` that can be used, by the names that users write."""
    load_plugins()
    found = {name_of(kind): kind for kind in _subclasses(base) if not isabstract(kind)}
    return {name: kind for name, kind in found.items() if kind is not base}


def find_class(base: type[Kind], name: str, file: object = None) -> type[Kind]:
    """Find a subclass of ``base`` by its class name, if it is imported, or by its import path.

    Args:
        base: base class of the class.
        name: class name or import path.
        file: the file that names it. A file alone never imports: the class must be of this
            package, or by its import path one of an installed plug-in or of a package that the
            caller has imported.

    Raises:
        UntrustedError: if a file names a class of a package that nobody has imported.
        ConfigError: if there is no such class, or it is no subclass of ``base``.
    """
    known = {**known_classes(base), name_of(base): base}
    known |= {f"{kind.__module__}.{kind.__qualname__}": kind for kind in known.values()}
    if name in known:
        return known[name]
    if file is not None:
        package = name.split(".")[0]
        raise UntrustedError(
            f"{file} needs the {base.__name__} {name!r}, which is not part of epic_pl. If you "
            f"trust it, give --import {package}, or in Python trust=[{package!r}].{load_plugins()}"
        )
    module, dot, attribute = name.rpartition(".")
    if not dot:
        alike = [kind for kind in known.values() if kind.__name__ == name]
        if len(alike) == 1:  # of another package
            return alike[0]
        names = list(known_classes(base)) or [base.__name__]
        raise ConfigError(
            f"There is no {base.__name__} {name!r}; there are {', '.join(names)}."
            f"{did_you_mean(name, names)} Another package's is my_package.{name}.{load_plugins()}"
        )
    imported = getattr(_import(module, name), attribute, None)
    if not (isinstance(imported, type) and issubclass(imported, base)):
        why = f"{module} has no such attribute" if imported is None else f"it is no {base.__name__}"
        raise ConfigError(f"{name} cannot be used: {why}. docs/extend.md has an example.")
    return imported


def _import(module: str, name: str) -> object:
    way_out = "Install its package, or add its folder to PYTHONPATH."
    with raised_as(ConfigError, f"{name} cannot be imported", way_out):
        return import_module(module)


def _subclasses(base: type[Kind]) -> Iterable[type[Kind]]:
    yield base
    for kind in base.__subclasses__():
        yield from _subclasses(kind)
