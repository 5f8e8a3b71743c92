"""``benchmarks/folds.py`` and ``tables.py`` on a fabricated OpenMoji and tiny encoders."""

import csv
import hashlib
import io
import json
import random
import tarfile

import fabricate
import pytest
import yaml

import folds
import tables
from epic_pl.data.inspection import init
from epic_pl.utils.errors import AssetError, DataError

SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8"><rect width="4" height="4"/></svg>'


@pytest.fixture(autouse=True)
def made(emoji):
    """The rows of a table of emoji, by its name."""

    def made(name, emoji=emoji):
        by_code = {each.code: each for each in emoji}
        rows = tables.EMOJI_TABLES[name](emoji, random.Random(0))
        return [(by_code[code], text, label) for code, text, label in rows]

    return made


def test_texts_and_labels_of_the_tables(made, emoji):
    every = emoji
    for emoji, text, label in made("one_word"):
        assert text in emoji.name.split()
        assert label == emoji.category
    noisy = made("noisy_titles")
    assert all(text and label == emoji.subcategory for emoji, text, label in noisy)
    own = sum(set(text.split()) <= set(emoji.name.split()) for emoji, text, _ in noisy)
    assert 0.6 < own / len(noisy) < 1
    cells = made("empty_cells", every * 14)
    assert 0.35 < sum(text == "" for _, text, _ in cells) / len(cells) < 0.45
    pairs = made("agreement")
    assert all((text == emoji.name) == (label == "yes") for emoji, text, label in pairs)
    assert 0.3 < sum(label == "yes" for *_, label in pairs) / len(pairs) < 0.7


def test_icons_have_the_categories_that_enough_icons_share(here):
    folder = here / f"fontawesome-7.3.1-{tables._SIZE}px"
    folder.mkdir()
    names = [f"arrow-{number}" for number in range(tables._LEAST_ICONS)]
    for name in names:
        (folder / f"{name}.png").touch()
    categories = {"arrows": [*names, "not-drawn"], "first": names[:-1], "all": names}
    content = {name: {"icons": icons} for name, icons in categories.items()}
    (folder / "categories.yml").write_text(json.dumps(content))  # JSON is YAML, too
    drawn, rows = tables.icons()
    assert drawn == folder
    assert sorted(rows) == sorted((n, n.replace("-", " "), "arrows;all") for n in names)


def test_icons_are_drawn_from_the_published_package_alone(here, monkeypatch):
    path = here / "packages" / tables._FILE
    monkeypatch.setattr(tables.shutil, "which", lambda _: None)
    with pytest.raises(AssetError, match=r"npm is missing.*packages"):
        tables.icons()
    path.parent.mkdir()
    members = {
        "metadata/categories.yml": "arrows: {icons: [up, down]}",
        "svgs-full/solid/up.svg": SVG,
    }
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content.encode()))
    with pytest.raises(AssetError, match=r"not the published"):
        tables.icons()
    monkeypatch.setattr(tables, "_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    monkeypatch.setattr(tables, "_LEAST_ICONS", 1)
    folder, rows = tables.icons()
    assert rows == [("up", "up", "arrows")]
    assert (folder / "up.png").is_file()
    assert path.is_file()


def _rows(config):
    with (config.parent / "table.csv").open() as file:
        return list(csv.DictReader(file))


def test_locked_rows_are_in_no_fold(tmp_path, emoji):
    rows = _rows(tables.write(tmp_path / "folds", "one_word"))
    every = _rows(tables.write(tmp_path / "locked", "one_word", locked=True))
    locked = {row["image"] for row in every if row["split"] == "test"}
    assert len(locked) == 0.2 * len(emoji)
    assert {row["image"] for row in rows} == {row["image"] for row in every} - locked
    for row in rows:
        assert sorted(row[f"fold{fold}"] for fold in range(3)) == ["test", "train", "train"]


def test_a_table_of_ones_own_has_test_rows_of_its_own_and_folds_of_whole_images(tmp_path):
    own = tmp_path / "own"
    for number in range(12):
        fabricate.image(own / f"{number}.png")
    rows = [
        {"photo": f"{row // 2}.png", "words": f"text {row}", "kind": "ab"[row % 2], "split": split}
        for row, split in enumerate(["train"] * 18 + ["val"] * 6)
    ]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    tables.write_csv(own / "table.csv", columns)
    every = _rows(tables.write(tmp_path / "locked", str(own), locked=True))
    assert [row["split"] for row in every] == ["train"] * 18 + ["test"] * 6
    assert every[0]["photo"] == str(own / "0.png")
    kept = _rows(tables.write(tmp_path / "folds", str(own)))
    assert [row["words"] for row in kept] == [row["words"] for row in rows[:18]]
    for one, other in zip(kept[::2], kept[1::2], strict=True):  # of the same image
        folds = [each[f"fold{fold}"] for each in (one, other) for fold in range(3)]
        assert folds[:3] == folds[3:]
        assert sorted(folds[:3]) == ["test", "train", "train"]
    prices = [f"{row}.5" for row in range(24)]
    tables.write_csv(own / "table.csv", columns | {"price": prices})
    config = yaml.safe_load(tables.write(tmp_path / "columns", str(own), locked=True).read_text())
    assert config["data"]["init_args"]["number_columns"] == ["price"]
    del columns["split"]
    tables.write_csv(own / "table.csv", columns | {"price": prices})
    with pytest.raises(DataError, match=r"own/table.csv has .*'price'"):
        tables.write(tmp_path / "wrong", str(own))


# it counted all rows as training rows, of which a share would validate
def test_the_config_of_a_table_of_ones_own_is_that_of_data_init(tmp_path):
    own = tmp_path / "own"
    fabricate.image(own / "0.png")
    splits = ["train"] * 40 + ["val"] * 5 + ["test"] * 5
    columns = {"photo": ["0.png"] * 50, "caption": [f"text {row}" for row in range(50)]}
    columns |= {"kind": ["a", "b"] * 25, "split": splits}
    tables.write_csv(own / "table.csv", columns)
    configs = tables.write(tmp_path / "locked", str(own), locked=True), init.write_config(own)[0]
    ours, theirs = (yaml.safe_load(config.read_text()) for config in configs)
    for options in (ours, theirs):
        for name in ("table", "image_root"):
            del options["data"]["init_args"][name]
        del options["trainer"]["default_root_dir"]
    assert ours == theirs


def test_the_summary_has_means_over_folds_and_over_tasks():
    rows = [
        {"task": "a", "method": "EPIC", "score": [80.0, 82.0], "ece": [1.0, 3.0]},
        {"task": "b", "method": "EPIC", "score": [50.0]},
    ]
    first, second, mean = folds.summary(rows)
    assert (first["score"], first["ece"], first["runs"]) == ("81.0 ± 1.4", "2.0", 2)
    assert (second["score"], second["ece"]) == ("50.0", "")
    assert (mean["task"], mean["score"]) == ("mean of all tasks", "65.5")
