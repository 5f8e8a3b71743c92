"""The API pages have one entry for each public name: what a package lists in ``__all__``."""

import re
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import Any

import epic_pl

DOCS = Path(__file__).parents[2] / "docs"
_DIRECTIVE = re.compile(r"^\.\. auto(\w+):: (\S+)\n((?:   :.*\n)*)", re.MULTILINE)


def value_of(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(import_module(module), attribute)


def exported() -> dict[int, str]:
    """Names of the classes and functions in ``__all__``, by identity: packages may share one."""
    packages = [
        module.name for module in walk_packages(epic_pl.__path__, "epic_pl.") if module.ispkg
    ]
    names = [
        f"{package}.{name}"
        for package in ("epic_pl", *packages)
        for name in getattr(import_module(package), "__all__", ())
    ]
    return {id(value_of(name)): name for name in names if callable(value_of(name))}


def documented() -> list[int]:
    """Identities of the objects that have an entry on a page."""
    names = []
    for page in (DOCS / "api").glob("*.md"):
        module = ""
        for kind, name, options in _DIRECTIVE.findall(page.read_text()):
            if kind != "module":
                names.append(name if "." in name else f"{module}.{name}")
                continue
            module, content = name, vars(import_module(name))
            if ":no-members:" not in options:
                own = [n for n, v in content.items() if getattr(v, "__module__", None) == module]
                names += [f"{module}.{n}" for n in content.get("__all__", own) if n not in options]
    return [id(value_of(name)) for name in names]


def test_each_public_name_has_one_entry():
    entries = documented()
    assert not [name for key, name in exported().items() if entries.count(key) != 1]


def test_the_overview_lists_all_public_names():
    page = (DOCS / "api.md").read_text()
    listed = [id(value_of(name)) for name in re.findall(r"^   (epic_pl\.\S+)$", page, re.MULTILINE)]
    assert not [name for key, name in exported().items() if listed.count(key) != 1]
