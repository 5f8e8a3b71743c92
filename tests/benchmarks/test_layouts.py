"""``benchmarks/layouts.py``: a table in the files of a dataset, read by its DataModule."""

from itertools import chain

import fabricate
import pytest

import layouts
import tables
from epic_pl.data import MMIMDBDataModule, SNLIVEDataModule

ROWS = [
    ("tt0000007", "It rains.", "Drama|Science Fiction", "train"),
    ("tt0000008", "It snows.", "Comedy", "val"),
    ("tt0000009", "It pours.", "Crime|War", "test"),
]
ANSWERS = ("entailment", "neutral", "contradiction")


@pytest.fixture
def read(tmp_path, monkeypatch, tiny_vit_dir, tiny_tokenizer_dir):
    """Write a table, bring it into a layout, and give the rows of each split as read from there."""

    def read(layout, kind, header, rows):
        for stem, *_ in rows:
            fabricate.image(tmp_path / "images" / f"{stem}.jpg")
        table = zip(*((f"images/{stem}.jpg", *rest) for stem, *rest in rows), strict=True)
        tables.write_csv(tmp_path / "table.csv", dict(zip(header, map(list, table), strict=True)))
        out = tmp_path / "out"
        monkeypatch.setattr("sys.argv", ["layouts.py", str(tmp_path), str(out), "--layout", layout])
        assert layouts.main() == 0
        encoders = {"image_encoder": str(tiny_vit_dir), "text_encoder": str(tiny_tokenizer_dir)}
        data = kind(data_dir=str(out), **encoders)
        data.setup()
        datasets = {split: data.dataset(split) for split in ("train", "val", "test")}
        return data, {
            split: [dataset[row] for row in range(len(dataset))]
            for split, dataset in datasets.items()
        }

    return read


def test_films(read):
    data, rows = read("mm_imdb", MMIMDBDataModule, ("poster", "plot", "genres", "split"), ROWS)
    for (name, plot, genres, _), [row] in zip(ROWS, rows.values(), strict=True):
        assert (row["sample_id"], row["text"]) == (name.removeprefix("tt"), plot)
        known = {data.class_names[code] for code in row["label"]}
        assert known == set(genres.replace("Science Fiction", "Sci-Fi").split("|"))
        assert row["image"] is not None


@pytest.mark.parametrize("locked", [True, False])
def test_statements(read, locked):
    """Without test rows those of val are the test split, and some images those of validation."""
    splits = ["train"] * 80 + ["val"] * 10 + ["test" if locked else "val"] * 10
    rows = [(f"{n // 2}", f"It is {n}.", ANSWERS[n % 3], each) for n, each in enumerate(splits)]
    columns = ("image", "statement", "label", "split")
    data, found = read("snli_ve", SNLIVEDataModule, columns, rows)
    texts = {split: [row["text"] for row in given] for split, given in found.items()}
    assert sorted(chain(*texts.values())) == sorted(text for _, text, *_ in rows)
    assert texts["test"] == [row[1] for row in rows if row[3] == ("test" if locked else "val")]
    images = {split: {row["image_path"] for row in given} for split, given in found.items()}
    assert images["train"].isdisjoint(images["val"])
    for row in found["test"]:
        number = int(row["text"].removeprefix("It is ").removesuffix("."))
        assert data.class_names[row["label"]] == ANSWERS[number % 3]
        assert row["image_path"] == f"{number // 2}.jpg"
