"""The real command line on tables as people have them: init, check, fit."""

import csv
import json
import re

import fabricate
import pyarrow as pa
import pytest
import yaml
from PIL import Image

import tiny_runs
from epic_pl.run.epic_cli import run

BIRDS = ["Blue Tit", "Great Spotted Woodpecker", "House Sparrow"]
GENRES = ["comedy", "drama", "sci-fi"]


def _image(path, shade, size=(64, 48)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade, 99, 9)).save(path)


def _birds(folder):
    """A spreadsheet's export: semicolons, a byte order mark, foreign names, texts of two lines."""
    with (folder / "export (2).csv").open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(["Nr.", "Foto-Datei", "Beobachtung", "Art", "Datum"])
        for i in range(30):
            photo = f"photos/IMG_{i}.JPG"
            _image(folder / photo, 8 * i)
            text = f'Seen at the feeder, {i} minutes;\n"lovely"'
            writer.writerow([i + 1, photo, text, BIRDS[i % 3], f"2021-0{i % 9 + 1}-11"])


def _films(folder):
    with (folder / "films.jsonl").open("w") as file:
        for i in range(30):
            _image(folder / "posters" / f"tt{i}.png", 8 * i)
            row = {"imdb_id": f"tt{i}", "poster": f"posters/tt{i}.png", "title": f"Film {i}"} | {
                "plot": f"A story with number {i}",
                "genres": [GENRES[i % 3], *([GENRES[(i + 1) % 3]] if i % 2 else [])],
            }
            file.write(json.dumps(row) + "\n")


def _memes(folder):
    """A split column, and rows without an image."""
    with (folder / "data.tsv").open("w") as file:
        file.write("id\timg\ttext\tlabel\tset\n")
        for i in range(30):
            name = f"img/{i}.png" if i % 7 else ""
            if name:
                _image(folder / name, 8 * i, (300, 240))
            split = "train" if i < 20 else ("dev", "test")[i % 2]
            file.write(f"{i}\t{name}\tsome caption {i}\t{i // 2 % 2}\t{split}\n")


def _saved(folder):
    """A saved dataset of the Hugging Face library, with its images inside."""
    names = {"names": ["green", "red"], "_type": "ClassLabel"}
    features = {"image": {"_type": "Image"}, "caption": {"_type": "Value"}, "label": names}
    for split, count in (("train", 18), ("validation", 6), ("test", 6)):
        rows = []
        for i in range(count):
            square = Image.new("RGB", (40, 40 + i), ("green", "red")[i % 2])
            image = {"bytes": fabricate.encoded(square), "path": f"{i}.png"}
            rows.append({"image": image, "caption": f"square number {i}", "label": i % 2})
        (folder / split).mkdir()
        table = pa.Table.from_pylist(rows)
        with pa.ipc.new_stream(str(folder / split / "a.arrow"), table.schema) as writer:
            writer.write_table(table)
        (folder / split / "dataset_info.json").write_text(json.dumps({"features": features}))
    splits = {"splits": ["train", "validation", "test"]}
    (folder / "dataset_dict.json").write_text(json.dumps(splits))


@pytest.mark.parametrize(
    ("write", "columns", "classes", "rows", "first", "size"),
    [
        (_birds, ("Foto-Datei", "Beobachtung", "Art"), BIRDS, (18, 6, 6), "Seen", (64, 48)),
        (_films, ("poster", "title", "genres"), GENRES, None, "Film ", (64, 48)),
        (_memes, ("img", "text", "label"), ["0", "1"], (20, 5, 5), "some caption", (300, 240)),
        (_saved, ("image", "caption", "label"), ["green", "red"], (18, 6, 6), "square", (40, 43)),
    ],
)
def test_init_writes_a_config_that_check_and_fit_take(
    folder, tiny, told, write, columns, classes, rows, first, size
):
    write(folder)
    named = ("--image=Foto-Datei", "--text=Beobachtung", "--label=Art") if write is _birds else ()
    code, said, _ = told("data", "init", folder, *named)
    assert code == 0
    for role, column in zip(("images", "text", "label"), columns, strict=True):
        assert re.search(rf"{role} +{column}\b", said)
    config = folder / "epic.yaml"
    for command in ("fit", "compare"):
        assert f"epic-pl {command} --config '{config}'" in said  # quoted for the shell
    assert told("data", "init", folder)[0] == 1  # it is there
    output = folder / "[/red]"  # no markup
    code, said, _ = told("data", "check", f"--config={config}", "--output", output, *tiny)
    assert code == 0
    assert f"Report: {output / 'report.html'};" in said
    image_size = yaml.safe_load(config.read_text())["model"]["encoders"]["image_size"]
    assert image_size == (224 if write is _memes else 112)  # 112 of small images
    fitted = run(["fit", f"--config={config}", *tiny, "--trainer.fast_dev_run=1"])
    assert fitted.model.class_names == classes
    tables = [fitted.datamodule.read_split(split).table for split in ("train", "val", "test")]
    counts = tuple(table.num_rows for table in tables)
    assert sum(counts) == 30
    assert rows in (None, counts)
    assert tables[0]["image"].null_count == (3 if write is _memes else 0)
    assert tables[0]["text"][0].as_py().startswith(first)
    assert fabricate.raw(fitted.datamodule.dataset("train"), 3)["image"].size == size


def test_each_table_has_a_report_of_its_own(workdir, cache, told, tiny_vit_dir, tiny_tokenizer_dir):
    for name in ("shop", "farm"):
        tiny_runs.table(workdir / name)
        config = tiny_runs.table_config(workdir / name, tiny_vit_dir, tiny_tokenizer_dir)
        code, said, _ = told("data", "check", "--workers=1", "--config", config)
        assert code == 0
        report = f"runs/data_check/{name}/table.csv/report.html"
        assert f"Report: {report};" in said
        assert "Images have a shorter side of 36 pixels (median)" in said  # of all
        assert f"Data check: {name}/table.csv" in (workdir / report).read_text()


def test_check_lists_all_kinds_of_mess_at_once_and_fit_refuses_it(
    workdir, cache, told, tiny_vit_dir, tiny_tokenizer_dir
):
    with tiny_runs.changed_rows(tiny_runs.table(workdir / "shop")) as rows:
        parts = {part: [row for row in rows if row["split"] == part] for part in ("train", "val")}
        for number, row in enumerate(rows):
            row |= {"price": f"{number},50 €", "day": "2001-02-03", "shipped": "13.02.2001"}
        first, second, third, *_ = parts["train"]
        first["label"] = second["label"] = ""
        first["price"], second["price"], third["day"] = "ask us", "1,234", "soon"
        first["shipped"], second["shipped"] = "n/a", "31.02.2001"
        third["image"] = "gone.png"
        parts["val"][0]["label"] = "Reds"
    typed = {"number_columns": ["price"], "date_columns": {"day": "%d", "shipped": "%d.%m.%Y"}}
    config = tiny_runs.table_config(workdir / "shop", tiny_vit_dir, tiny_tokenizer_dir, **typed)
    for _ in range(2):  # incomplete rows are not cached
        code, said, _ = told("data", "check", "--workers=1", "--config", config)
        assert code == 1
        for line in (
            "error: There is no label in 2 rows",
            "error: Labels unknown in training: 'Reds' occur in validation or test only, in 1 row",
            "error: Column 'price' (number_columns) holds no number in 2 rows",
            "('ask us')",
            "error: Column 'day' (date_columns) holds no date in 1 row",
            "('soon')",
            "error: Column 'shipped' (date_columns) holds no date in 1 row",
            "error: Rows whose image is missing: 1",
            "Training cannot start: 6 errors.",
        ):
            assert line in said
        code, _, error = told("fit", "--config", config)
        assert (code, error.count("\n")) == (1, 1)
        assert "Column 'price' (number_columns) holds no number in rows" in error


def test_check_lists_refused_rows_before_the_error_that_ends_it(
    workdir, cache, told, tiny_vit_dir, tiny_tokenizer_dir
):
    with tiny_runs.changed_rows(tiny_runs.table(workdir / "shop")) as rows:
        for row in rows:
            row |= {"price": "ask us", "label": row["label"] if row["split"] != "val" else ""}
    encoders = tiny_vit_dir, tiny_tokenizer_dir
    config = tiny_runs.table_config(workdir / "shop", *encoders, number_columns=["price"])
    code, said, error = told("data", "check", "--config", config)
    assert code == 1
    assert "error: Column 'price' (number_columns) holds no number in" in said
    assert "error: There is no label in" in said
    assert "No row of the val split" in error
