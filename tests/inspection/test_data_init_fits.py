"""Tables as people have them: init writes a config, and fit takes it as it is."""

import csv
import json

import pytest
from PIL import Image

from epic_pl.cli import main, run


def _picture(path, shade, size=(64, 48)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade, 99, 9)).save(path)


def _birds(folder):
    """A spreadsheet's export: semicolons, a byte order mark, columns named in another language."""
    names = ["House Sparrow", "Blue Tit", "Great Spotted Woodpecker"]
    with (folder / "export (2).csv").open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(["Nr.", "Foto-Datei", "Beobachtung", "Art", "Datum"])
        for i in range(30):
            photo = f"photos/IMG_{i}.JPG"
            _picture(folder / photo, 8 * i)
            text = f'Seen at the feeder, {i} minutes; "lovely"'
            writer.writerow([i + 1, photo, text, names[i % 3], f"2021-0{i % 9 + 1}-11"])


def _films(folder):
    genres = ["drama", "comedy", "sci-fi"]
    with (folder / "films.jsonl").open("w") as file:
        for i in range(30):
            _picture(folder / "posters" / f"tt{i}.png", 8 * i)
            row = {
                "imdb_id": f"tt{i}",
                "poster": f"posters/tt{i}.png",
                "title": f"Film {i}",
                "plot": f"A story with number {i}",
                "genres": [genres[i % 3], *([genres[(i + 1) % 3]] if i % 2 else [])],
            }
            file.write(json.dumps(row) + "\n")


def _memes(folder):
    """A split column, and rows without a picture."""
    with (folder / "data.tsv").open("w") as file:
        file.write("id\timg\ttext\tlabel\tset\n")
        for i in range(30):
            name = f"img/{i}.png" if i % 7 else ""
            if name:
                _picture(folder / name, 8 * i, (300, 240))
            split = "train" if i < 20 else ("dev", "test")[i % 2]
            file.write(f"{i}\t{name}\tsome caption {i}\t{i // 2 % 2}\t{split}\n")


@pytest.mark.parametrize(
    ("write", "classes", "rows"),
    [
        (_birds, ["Blue Tit", "Great Spotted Woodpecker", "House Sparrow"], (18, 6, 6)),
        (_films, ["comedy", "drama", "sci-fi"], None),
        (_memes, ["0", "1"], (20, 5, 5)),
    ],
)
def test_init_and_fit(
    write, classes, rows, tmp_path, monkeypatch, tiny_vit_dir, tiny_tokenizer_dir
):
    monkeypatch.setenv("EPIC_PL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "my data"
    folder.mkdir()
    write(folder)
    with pytest.raises(SystemExit) as stop:
        main(["data", "init", str(folder)])
    assert stop.value.code == 0
    fitted = run(
        [
            "fit",
            f"--config={folder / 'epic.yaml'}",
            f"--model.encoders.image.name={tiny_vit_dir}",
            f"--model.encoders.text.name={tiny_tokenizer_dir}",
            "--model.encoders.image_size=32",
            "--model.epic.interaction_layers=2",
            "--trainer.max_epochs=1",
            "--trainer.accelerator=cpu",
        ]
    )
    data = fitted.datamodule
    assert data.class_names == classes
    counts = tuple(data.read_split(split).table.num_rows for split in ("train", "val", "test"))
    assert sum(counts) == 30
    assert rows in (None, counts)
    assert data.read_split("train").table["image"].null_count == (3 if write is _memes else 0)
    first = data.read_split("train").table["text"][0].as_py()
    assert first.startswith({_birds: "Seen", _films: "Film ", _memes: "some caption"}[write])
