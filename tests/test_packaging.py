"""What an installed package would lack that a clone has."""

import tomllib
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
FILES = {
    file: ".".join(file.relative_to(ROOT / "src").parent.parts)
    for file in (ROOT / "src" / "epic_pl").rglob("*")
    if file.is_file() and "__pycache__" not in file.parts
}


def test_every_folder_is_listed_as_a_package():
    folders = {package for package in FILES.values() if "templates" not in package}
    assert folders == set(SETTINGS["packages"])


def test_the_clones_parent_folder_does_not_hide_an_editable_install():
    assert SETTINGS["package-dir"] == {"": "src"}


def test_every_file_that_is_no_module_goes_with_its_package():
    missing = []
    for file, package in FILES.items():
        owner, below, _ = package.partition(".templates")
        name = f"templates/{file.name}" if below else file.name
        patterns = SETTINGS["package-data"].get(owner, [])
        is_module = file.suffix == ".py" and not below
        if not is_module and not any(fnmatch(name, pattern) for pattern in patterns):
            missing.append(str(file))
    assert not missing
