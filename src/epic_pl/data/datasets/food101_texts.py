"""The four texts of UPMC-Food101 that are in circulation, each read as one list of rows a split."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

from epic_pl.data.images import PICTURE_SUFFIXES
from epic_pl.data.layout import Layout, Located
from epic_pl.data.records import read_csv, read_json, read_jsonl, require, string_list
from epic_pl.data.row_cache import Origin, digest_of_files, digest_of_names
from epic_pl.errors import DataError

TextSource = Literal["titles", "split_json", "page_text", "jsonl"]

_TRAIN, _TEST = "images/train/|images/images/train/", "images/test/|images/images/test/"
_VAL_FILES = ("val.jsonl", "dev.jsonl")
LAYOUTS = {
    "titles": Layout("titles", (_TRAIN, _TEST, "texts/train_titles.csv", "texts/test_titles.csv")),
    "split_json": Layout(
        "split_json", (_TRAIN, _TEST, "split.json", "text.json", "class_idx.json")
    ),
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


class Release(NamedTuple):
    """What a text source holds: its classes, rows of each split (``val`` may be missing)."""

    classes: list[str]
    splits: dict[str, list[Record]]
    sources: dict[str, Path]
    image_root: Path


def read_release(source: TextSource, found: Located, max_tokens: int) -> Release:
    """All rows of a text source.

    Args:
        source: which text.
        found: its files.
        max_tokens: of a page no more is read than these can hold.

    Raises:
        DataError: a file is broken.
    """
    if source == "page_text":
        return _page_text(found, _CHARACTERS_PER_TOKEN * max_tokens)
    return _READERS[source](found)


def read_from(source: TextSource, found: Located) -> Origin:
    """All that decides on what :func:`read_release` gives, but for ``max_tokens``."""
    options: dict[str, str] = {"source": source}
    if source == "jsonl":
        files = [found["train.jsonl"], found["test.jsonl"], *_validation_file(found)]
        return Origin(files, options)
    options["image_root"] = str(found[_TRAIN].parent.resolve())
    if source == "page_text":
        folders = [
            place / each for place in (found[_TRAIN], found[_TEST]) for each in _labels(place)
        ]
        pages = found["texts_txt/"]
        options["pictures"] = digest_of_names(folders)
        options["pages"] = digest_of_files([pages / each for each in _labels(pages)], ".txt")
        return Origin((), options)
    return Origin([path for path in found.paths.values() if path.is_file()], options)


def _titles(found: Located) -> Release:
    splits, sources = {}, {}
    for split in ("train", "test"):
        sources[split] = found[f"texts/{split}_titles.csv"]
        splits[split] = [
            Record(Path(image).stem, f"{split}/{label}/{image}", title, label)
            for image, title, label in read_csv(sources[split], width=3)
        ]
    return Release(_classes_of(splits["train"]), splits, sources, found[_TRAIN].parent)


def _split_json(found: Located) -> Release:
    path = found["split.json"]
    lists, texts = read_json(path), _texts_by_name(found["text.json"])
    classes = sorted(read_json(found["class_idx.json"]))
    names = {"train": ("train",), "val": ("val", "dev"), "test": ("test",)}
    splits = {}
    for split, keys in names.items():
        key = next((key for key in keys if key in lists), None)
        if key is None and split != "val":
            raise DataError(f"{path} has no list {split!r}, only {', '.join(lists)}.")
        if key is not None:
            folder = "test" if split == "test" else "train"  # val pictures are training ones
            splits[split] = [
                Record(Path(name).stem, f"{folder}/{label}/{name}", texts.get(name), label)
                for name in string_list(lists[key], f"list {key!r}", path)
                for label in [name.rpartition("_")[0]]
            ]
    return Release(classes, splits, dict.fromkeys(splits, path), found[_TRAIN].parent)


def _texts_by_name(path: Path) -> dict[str, str | None]:
    texts: dict[str, str | None] = read_json(path)
    for name, text in texts.items():
        if not isinstance(text, str | None):
            raise DataError(
                f"{path}: the text of {name!r} must be a string, but is {text!r:.60}. Correct "
                "it, or fetch the file again."
            )
    return texts


def _page_text(found: Located, limit: int) -> Release:
    splits = {}
    for split, folder in (("train", found[_TRAIN]), ("test", found[_TEST])):
        pictures = _pictures(folder)
        pages = [found["texts_txt/"] / label / f"{Path(name).stem}.txt" for label, name in pictures]
        with ThreadPoolExecutor(16) as pool:  # disks answer several requests at once
            texts = pool.map(lambda page: _page(page, limit), pages, chunksize=256)
            splits[split] = [
                Record(Path(name).stem, f"{split}/{label}/{name}", text, label)
                for (label, name), text in zip(pictures, texts, strict=True)
            ]
    sources = dict.fromkeys(splits, found["texts_txt/"])
    return Release(_classes_of(splits["train"]), splits, sources, found[_TRAIN].parent)


def _labels(folder: Path) -> list[str]:
    """Names of the folders in a folder, one a class."""
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def _pictures(folder: Path) -> list[tuple[str, str]]:
    """Class and file name of each picture; hidden files and folders are other programs'."""
    return [
        (label, name)
        for label in _labels(folder)
        for name in sorted(os.listdir(folder / label))
        if name.lower().endswith(PICTURE_SUFFIXES) and not name.startswith(".")
    ]


def _page(path: Path, limit: int) -> str | None:
    """The beginning of a page; no tokenizer here minds how much white space is in it."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return " ".join(file.read(8 * limit).split())[:limit]
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. Unpack it again.") from error


def _jsonl(found: Located) -> Release:
    root = found["train.jsonl"].parent
    sources = {"train": found["train.jsonl"], "test": found["test.jsonl"]}
    for path in _validation_file(found):
        sources["val"] = path
    splits = {}
    for split, path in sources.items():
        table = read_jsonl(path, ("id", "img", "text", "label"))
        require(table, "img", path)
        require(table, "label", path)
        splits[split] = [
            Record(sample_id or Path(image).stem, image, text, label)
            for sample_id, image, text, label in zip(
                *(table[name].to_pylist() for name in ("id", "img", "text", "label")), strict=True
            )
        ]
    return Release(_classes_of(splits["train"]), splits, sources, root)


def _validation_file(found: Located) -> list[Path]:
    """None, or the first of the names that it goes by."""
    places = [found["train.jsonl"].with_name(name) for name in _VAL_FILES]
    return [path for path in places if path.is_file()][:1]


_READERS: dict[str, Callable[[Located], Release]] = {
    "titles": _titles,
    "split_json": _split_json,
    "jsonl": _jsonl,
}


def _classes_of(records: Iterable[Record]) -> list[str]:
    return sorted({record.label for record in records})
