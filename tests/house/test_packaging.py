"""What an installed package would lack that a clone has, and what a release says of itself."""

import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import yaml

from epic_pl import __version__

ROOT = Path(__file__).parents[2]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
FILES = [
    file
    for file in (ROOT / "src" / "epic_pl").rglob("*")
    if file.is_file() and "__pycache__" not in file.parts
]


def test_the_clones_parent_folder_does_not_hide_an_editable_install():
    assert SETTINGS["packages"]["find"] == {"where": ["src"]}


def test_the_top_of_the_package_is_thirteen_names():
    names = [path.name for path in (ROOT / "src" / "epic_pl").iterdir()]
    assert len([name for name in names if name != "__pycache__"]) <= 13


def test_every_file_that_is_no_module_goes_with_its_package():
    patterns = ["*.py", *SETTINGS["package-data"]["*"]]
    missing = [str(f) for f in FILES if not any(fnmatch(f.name, known) for known in patterns)]
    assert not missing


def test_version_and_date_are_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    newest = re.search(r"^## \[(.+?)\](?: - (.+))?$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    if "dev" in __version__:
        assert newest[1] == "Unreleased"
    else:
        assert newest.groups() == (__version__, str(citation["date-released"]))
        assert citation["version"] == __version__
