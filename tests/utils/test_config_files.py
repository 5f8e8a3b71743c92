"""Configs by name: packaged ones, files, and the folder that is named after one."""

import re
from functools import partial
from pathlib import Path

import pytest

from epic_pl.utils.config_files import (
    find_config,
    find_packaged,
    first_config,
    packaged_file,
    resolve_configs,
)
from epic_pl.utils.errors import ConfigError


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("", "table.yaml"),
        ("overlays", "debug.yaml"),
        ("variants", "rivals.yaml"),
        ("spaces", "wide.yaml"),
    ],
)
def test_a_packaged_file_wins_by_its_bare_name_over_one_that_lies_here(folder, name, workdir):
    find = find_config if folder in ("", "overlays") else partial(find_packaged, folder)
    assert find(name) == packaged_file(folder, name)
    (workdir / name).write_text("model: {}")
    with pytest.warns(
        UserWarning, match=rf"(?s){re.escape(packaged_file(folder, name))}.*\./{name}"
    ):
        assert find(name) == packaged_file(folder, name)
    assert find(f"./{name}") == f"./{name}"
    assert find(str(workdir / name)) == str(workdir / name)
    (workdir / "mine.yaml").write_text("model: {}")
    assert find("mine.yaml") == "mine.yaml"


def test_a_folder_before_the_name_of_a_packaged_config_means_that_file():
    with pytest.raises(ConfigError):
        find_config("elsewhere/openmoji_entailment.yaml")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("tabel.yaml", "table.yaml"),
        ("my/tabel.yaml", "my/table.yaml"),
        ("my/shpo.yaml", "my/shop.yaml"),
        ("shpo.yaml", "shop.yaml"),
        ("gone/debug.yaml", "debug.yaml"),
    ],
)
def test_a_misspelt_config_may_mean_a_file_beside_it(name, meant, workdir):
    (workdir / "my").mkdir()
    for file in ("shop.yaml", "my/shop.yaml", "my/table.yaml"):
        (workdir / file).touch()
    with pytest.raises(ConfigError, match=rf"Did you mean '{meant}'\?$"):
        find_config(name)


def test_a_file_that_is_no_config_is_told(workdir):
    Path("items.csv").write_text("id,text\n1,a blue square\n")
    Path("list.yaml").write_text("- a\n")
    for name, held in (
        ("items.csv", "'id,text 1,a blue squ'"),
        ("list.yaml", re.escape("\"['a']\"")),
    ):
        with pytest.raises(
            ConfigError, match=rf"^{name} is no config \({held}\): see `epic-pl data"
        ):
            resolve_configs(["fit", "--config", name])
    Path("empty.yaml").touch()
    assert resolve_configs(["fit", "--config", "empty.yaml"])[-1] == "empty.yaml"


def test_a_folder_is_named_after_the_first_config_or_its_folder():
    assert first_config(["--config=a/food.yaml", "--config", "b.yaml"]) == "food"
    assert first_config(["--config", "cats/epic.yaml"]) == "cats"
    assert first_config(["--config", "epic.yaml"]) == Path.cwd().name
    assert first_config([]) == "default"
