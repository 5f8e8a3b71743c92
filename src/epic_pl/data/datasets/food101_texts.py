"""The four texts of UPMC-Food101 in circulation, each read as a list of rows a split."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

from epic_pl.data.datamodule import Split
from epic_pl.data.images import PICTURE_SUFFIXES
from epic_pl.data.layout import Layout, Located
from epic_pl.data.readers import read_csv, read_json, read_jsonl, require, string_list
from epic_pl.data.row_cache import digest_of_folders
from epic_pl.errors import DataError

TextSource = Literal["titles", "split_json", "page_text", "jsonl"]

_TRAIN, _TEST = "images/train/|images/images/train/", "images/test/|images/images/test/"
_VAL_FILES = ("val.jsonl", "dev.jsonl")
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
    """The rows of a split, the file they are from, and the folder of the pictures."""

    source: Path
    image_root: Path
    records: list[Record]


def read_release(source: TextSource, found: Located, max_tokens: int) -> dict[Split, Part]:
    """All rows of a text source; ``val`` may be missing."""
    if source == "titles":
        return _titles(found)
    if source == "split_json":
        return _split_json(found)
    if source == "page_text":
        return _page_text(found, _CHARACTERS_PER_TOKEN * max_tokens)
    return _jsonl(found)


def read_from(source: TextSource, found: Located) -> tuple[list[Path], dict[str, str]]:
    """Files and options that decide on what :func:`read_release` gives, but for ``max_tokens``."""
    options: dict[str, str] = {"source": source}
    if source == "jsonl":
        return list(_jsonl_files(found).values()), options
    options["image_root"] = str(found.paths[_TRAIN].parent.resolve())
    if source == "page_text":
        places = (found.paths[_TRAIN], found.paths[_TEST])
        folders = [place / label for place in places for label in _labels(place)]
        pages = [found.paths["texts_txt/"] / label for label in _labels(found.paths["texts_txt/"])]
        options["pictures"] = digest_of_folders(folders, names_only=True)
        options["pages"] = digest_of_folders(pages, ".txt", names_only=False)
    return [path for path in found.paths.values() if path.is_file()], options


def _titles(found: Located) -> dict[Split, Part]:
    parts: dict[Split, Part] = {}
    splits: tuple[Split, ...] = ("train", "test")
    for split in splits:
        source = found.paths[f"texts/{split}_titles.csv"]
        columns = read_csv(source, ("image", "title", "class")).values()
        records = [
            Record(Path(image).stem, f"{split}/{label}/{image}", title, label)
            for image, title, label in zip(*columns, strict=True)
        ]
        parts[split] = Part(source, found.paths[_TRAIN].parent, records)
    return parts


def _split_json(found: Located) -> dict[Split, Part]:
    path = found.paths["split.json"]
    lists, texts = read_json(path), _texts_by_name(found.paths["text.json"])
    keys: dict[Split, tuple[str, ...]] = {
        "train": ("train",),
        "val": ("val", "dev"),
        "test": ("test",),
    }
    parts: dict[Split, Part] = {}
    for split, known in keys.items():
        key = next((key for key in known if key in lists), None)
        if key is None and split != "val":
            raise DataError(f"{path} has no list {split!r}, only {', '.join(lists)}.")
        if key is not None:
            folder = "test" if split == "test" else "train"  # val pictures are training ones
            records = [
                Record(Path(name).stem, f"{folder}/{label}/{name}", texts.get(name), label)
                for name in string_list(lists[key], f"list {key!r}", path)
                for label in [name.rpartition("_")[0]]
            ]
            parts[split] = Part(path, found.paths[_TRAIN].parent, records)
    return parts


def _texts_by_name(path: Path) -> dict[str, str | None]:
    texts: dict[str, str | None] = read_json(path)
    for name, text in texts.items():
        if not isinstance(text, str | None):
            raise DataError(
                f"{path}: the text of {name!r} must be a string, but is {text!r:.60}. Correct "
                "it, or fetch the file again."
            )
    return texts


def _page_text(found: Located, limit: int) -> dict[Split, Part]:
    parts: dict[Split, Part] = {}
    folders: dict[Split, Path] = {"train": found.paths[_TRAIN], "test": found.paths[_TEST]}
    for split, folder in folders.items():
        pictures = [
            (label, name)
            for label in _labels(folder)
            for name in sorted(os.listdir(folder / label))
            if name.lower().endswith(PICTURE_SUFFIXES) and not name.startswith(".")
        ]
        pages = [
            found.paths["texts_txt/"] / label / f"{Path(name).stem}.txt" for label, name in pictures
        ]
        with ThreadPoolExecutor(16) as pool:  # disks answer several requests at once
            texts = pool.map(lambda page: _page(page, limit), pages, chunksize=256)
            records = [
                Record(Path(name).stem, f"{split}/{label}/{name}", text, label)
                for (label, name), text in zip(pictures, texts, strict=True)
            ]
        parts[split] = Part(found.paths["texts_txt/"], found.paths[_TRAIN].parent, records)
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
    files: dict[Split, Path] = {
        "train": found.paths["train.jsonl"],
        "test": found.paths["test.jsonl"],
    }
    places = [found.paths["train.jsonl"].with_name(name) for name in _VAL_FILES]
    for place in places:
        if place.is_file():
            return {**files, "val": place}
    return files


def _jsonl(found: Located) -> dict[Split, Part]:
    parts: dict[Split, Part] = {}
    for split, path in _jsonl_files(found).items():
        table = read_jsonl(path, ("id", "img", "text", "label"))
        require(table, "img", path)
        require(table, "label", path)
        columns = (column.to_pylist() for column in table.columns)
        records = [
            Record(sample_id or Path(image).stem, image, text, label)
            for sample_id, image, text, label in zip(*columns, strict=True)
        ]
        parts[split] = Part(path, path.parent, records)
    return parts
