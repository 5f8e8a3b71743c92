"""The four texts of UPMC-Food101 in circulation, each read as a list of rows a split."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple, cast

from epic_pl.data.datamodule import Split
from epic_pl.data.images import IMAGE_SUFFIXES
from epic_pl.data.layout import Layout, Located
from epic_pl.data.readers import read_csv, read_json, read_jsonl, require, string_list
from epic_pl.errors import DataError

TextSource = Literal["titles", "split_json", "page_text", "jsonl"]

_TRAIN, _TEST = "images/train/|images/images/train/", "images/test/|images/images/test/"
LAYOUTS = {
    "titles": Layout("titles", (_TRAIN, _TEST, "texts/train_titles.csv", "texts/test_titles.csv")),
    "split_json": Layout("split_json", (_TRAIN, _TEST, "split.json", "text.json")),
    "page_text": Layout("page_text", (_TRAIN, _TEST, "texts_txt/")),
    "jsonl": Layout("jsonl", ("train.jsonl", "test.jsonl")),
}
_CHARACTERS_PER_TOKEN = 12  # of a page's text; English words have about five a token


class Record(NamedTuple):
    """A row: ``image`` relative to the image root, ``text`` None where there is none."""

    sample_id: str
    image: str
    text: str | None
    label: str


class Part(NamedTuple):
    """The rows of a split, the file they are from, and the folder of the images."""

    source: Path
    image_root: Path
    records: list[Record]


def read_release(source: TextSource, found: Located, max_tokens: int) -> dict[Split, Part]:
    """All rows of a text source; ``val`` may be missing."""
    if source == "page_text":
        return _page_text(found, _CHARACTERS_PER_TOKEN * max_tokens)
    return {"titles": _titles, "split_json": _split_json, "jsonl": _jsonl}[source](found)


def sources(source: TextSource, found: Located) -> list[Path]:
    """Files and folders that decide on what :func:`read_release` gives."""
    if source == "jsonl":
        return list(_jsonl_files(found).values())
    if source == "page_text":
        return [place / label for place in found.paths.values() for label in _labels(place)]
    return [found.paths[_TRAIN].parent.parent, *(p for p in found.paths.values() if p.is_file())]


def _part(
    source: Path, found: Located, folder: str, rows: Iterable[tuple[str, str, str | None]]
) -> Part:
    """The rows of a split from label, image and text; images lie in a folder a class."""
    root = found.paths[_TRAIN].parent
    records = [
        Record(Path(image).stem, f"{folder}/{label}/{image}", text, label)
        for label, image, text in rows
    ]
    return Part(source, root, records)


def _titles(found: Located) -> dict[Split, Part]:
    parts: dict[Split, Part] = {}
    splits: tuple[Split, ...] = ("train", "test")
    for split in splits:
        source = found.paths[f"texts/{split}_titles.csv"]
        columns = read_csv(source, ("image", "title", "class"))
        rows = zip(columns["class"], columns["image"], columns["title"], strict=True)
        parts[split] = _part(source, found, split, rows)
    return parts


def _split_json(found: Located) -> dict[Split, Part]:
    path = found.paths["split.json"]
    lists, texts = read_json(path), read_json(found.paths["text.json"])
    parts: dict[Split, Part] = {}
    for key, names in lists.items():
        if key in ("train", "val", "dev", "test"):
            folder = "test" if key == "test" else "train"  # val images are training ones
            names = string_list(names, f"list {key!r}", path)
            rows = [(name.rpartition("_")[0], name, texts.get(name)) for name in names]
            parts[cast(Split, key.replace("dev", "val"))] = _part(path, found, folder, rows)
    if not {"train", "test"} <= set(parts):
        raise DataError(f"{path} must have lists train and test, but has {', '.join(lists)}.")
    return parts


def _page_text(found: Located, limit: int) -> dict[Split, Part]:
    parts: dict[Split, Part] = {}
    pages = found.paths["texts_txt/"]

    def row(image: tuple[str, str]) -> tuple[str, str, str | None]:
        label, name = image
        return label, name, _page(pages / label / f"{Path(name).stem}.txt", limit)

    for split, folder in (("train", found.paths[_TRAIN]), ("test", found.paths[_TEST])):
        images = [
            (label, name)
            for label in _labels(folder)
            for name in sorted(os.listdir(folder / label))
            if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")
        ]
        with ThreadPoolExecutor(16) as pool:  # disks answer several requests at once
            rows = pool.map(row, images, chunksize=256)
            parts[cast(Split, split)] = _part(pages, found, split, rows)
    return parts


def _labels(folder: Path) -> list[str]:
    """Names of the folders in a folder, one a class."""
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def _page(path: Path, limit: int) -> str | None:
    """The beginning of a page, white space collapsed."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return " ".join(file.read(8 * limit).split())[:limit]
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. Unpack it again.") from error


def _jsonl_files(found: Located) -> dict[Split, Path]:
    train, test = found.paths["train.jsonl"], found.paths["test.jsonl"]
    for val in (train.with_name("val.jsonl"), train.with_name("dev.jsonl")):
        if val.is_file():
            return {"train": train, "test": test, "val": val}
    return {"train": train, "test": test}


def _jsonl(found: Located) -> dict[Split, Part]:
    parts: dict[Split, Part] = {}
    for split, path in _jsonl_files(found).items():
        table = read_jsonl(path, ("id", "img", "text", "label"))
        require(table, ("img", "label"), path)
        columns = (column.to_pylist() for column in table.columns)
        records = [
            Record(sample_id or Path(image).stem, image, text, label)
            for sample_id, image, text, label in zip(*columns, strict=True)
        ]
        parts[split] = Part(path, path.parent, records)
    return parts
