"""Write a config for a table: configs/table.yaml with options that suit the table."""

import shlex
import textwrap
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml
from rich.filesize import decimal

from epic_pl.data.images import read_image
from epic_pl.data.inspection.guess import Guess, guess_columns
from epic_pl.data.tables.build import table_folder
from epic_pl.data.tables.columns import (
    RowOptions,
    read_image_paths,
    read_texts,
    unpack_images,
)
from epic_pl.data.tables.folders import holds_classes
from epic_pl.data.tables.formats import SUFFIXES, is_saved_dataset, read_table
from epic_pl.utils.assets import cache_dir
from epic_pl.utils.config_files import INIT_CONFIG, first_config, packaged_file, read_yaml
from epic_pl.utils.errors import ConfigError, DataError, printable
from epic_pl.utils.files import free_bytes, write_text

_EXAMINED_ROWS = 50
# only few values, so that models of several tables can share stored features
_SMALL, _LARGE = 112, 224  # pixels, multiples of 14 and 16
_TOKENS = (32, 64, 128)
_MANY_LONG = 0.25  # share of images of 4:3 or longer, of which a crop loses a quarter or more
_FOREIGN = 0.005  # share of letters outside ASCII; 0.0002 in English, 0.016 in German
# features at level "layers": 65 cells of an image, with keys and values of two layers; a token
_IMAGE_BYTES, _TOKEN_BYTES = 250_000, 3_900


def write_config(
    source: Path, force: bool = False, output: Path | None = None, **columns: Any
) -> tuple[Path, str]:
    """Guess the roles of a table's columns, and write a config for it.

    Args:
        source: a table, or a folder with one table.
        force: whether to replace a config that exists.
        output: file to write; None is ``epic.yaml`` beside the table.
        **columns: arguments of :func:`~epic_pl.data.inspection.guess.guess_columns`.

    Returns:
        The file, and a text with its options, the reasons for them, and the next commands.

    Raises:
        DataError: if there is no table, there are several, or columns cannot be guessed.
        ConfigError: if the config exists and ``force`` is False.
    """
    path = find_table(source)
    folder = table_folder(path)
    config = output or (source if source.is_dir() else source.parent) / INIT_CONFIG
    table = read_table(path)
    if config.exists() and not force:
        raise ConfigError(f"{config} exists: replace it with --force, or name another --output.")
    guess = guess_columns(table, folder, **columns)
    options, chosen = _options(path, folder, table, guess)
    summary = _summarize(config, guess, chosen)
    # the folder's name is part of it, so that tables of the same name do not share runs
    options["trainer"]["default_root_dir"] = f"runs/{first_config(['--config', str(config)])}"
    about = "# table.yaml, which ships with the package, explains the options."
    text = yaml.safe_dump(options, sort_keys=False, allow_unicode=True, width=100)
    write_text(config, f"{textwrap.indent(summary, '# ')}\n{about}\n{text}")
    return config, summary


def _summarize(config: Path, guess: Guess, chosen: Mapping[str, str]) -> str:
    """Text with the roles of columns, the chosen options, and the commands to run next."""
    # without a folder the name could mean a packaged config
    file = shlex.quote(f"./{config}" if str(config) == config.name else str(config))
    several = f", separated by {guess.label_separator!r}" if guess.label_separator else ""
    named = [f"{count:,} {split}" for split, count in guess.split_rows.items()]
    drawn = [split for split in ("val", "test") if split not in guess.split_rows]
    splits = [f"{guess.split_column} ({', '.join(named)})"] if guess.split_column else []
    splits += [f"{' and '.join(drawn)} rows are drawn"] if drawn else []
    texts = guess.text_columns
    lines = {
        "images": guess.image_column or "no column of images",
        "text": ", ".join([texts] if isinstance(texts, str) else texts or ["no column of texts"]),
        "label": guess.label_column + (f" (several{several})" if guess.multilabel else ""),
        "splits": "; ".join(splits),
    }
    lines |= {"ids": guess.id_column} if guess.id_column else {}
    plural = {"number": "numbers", "date": "dates", "category": "categories"}
    for option, names in guess.kinds.items():
        lines[plural[option.removesuffix("_columns")]] = ", ".join(
            name + f" ({guess.remarks[name]})" * bool(guess.remarks[name]) for name in names
        )
    left = [name for name in guess.unused if name not in chain(*guess.kinds.values())]
    reasons = [f"{name}: {guess.remarks[name]}" for name in left]
    lines |= {"left out": f"\n{'':14}".join(reasons) or "no column", **chosen}
    if leaks := guess.leaks:
        told = (f"{name} tells the label of {share:.0%} of rows" for name, share in leaks.items())
        lines["leaks"] = f"{', '.join(told)}: is it known before the label?"
    more = ",Trees" if any(guess.kinds.values()) else ""
    more += " --alone LateFusionMLP" if guess.image_column and texts else ""
    return (
        f"{config}, written by epic-pl data init, takes\n"
        + "".join(f"  {name:<11} {printable(value)}\n" for name, value in lines.items())
        + "Correct wrong guesses there. Then:\n"
        f"  epic-pl data check --config {file}\n"
        f"  epic-pl fit --config {file}\n"
        "Is a plain network as good, and what does each modality add? Compare on the test split:\n"
        f"  epic-pl compare --config {file} --methods EPIC,LateFusionMLP{more}"
    )


def find_table(source: Path) -> Path:
    """The table at a path, or the only table in the folder at a path."""
    if not source.is_dir() or is_saved_dataset(source):
        return source
    tables = [f for f in sorted(source.iterdir()) if f.suffix.lower() in SUFFIXES]
    if not tables and holds_classes(source):
        return source
    if len(tables) != 1:
        names = ", ".join(f.name for f in tables) or "none"
        raise DataError(
            f"{source} must hold one table ({', '.join(SUFFIXES)}) or a folder for each class; "
            f"found: {names}. Name the table, or merge several into one with a split column."
        )
    return tables[0]


def _options(
    path: Path, folder: Path, table: pa.Table, guess: Guess
) -> tuple[dict[str, Any], dict[str, str]]:
    """Options of configs/table.yaml for this table, and a line of explanation for each choice."""
    options: dict[str, Any] = read_yaml(packaged_file("", "table.yaml"))
    rows, val_size = table.num_rows, 0.1 if table.num_rows >= 200 else 0.2
    size, resize, of_images = _fit_images(table, guess, folder)
    tokens, of_texts = _fit_texts(table, guess, options["model"]["encoders"]["text"]["name"])
    metric = "val/map" if guess.multilabel else "val/accuracy"
    epochs = int(np.clip(30_000 / rows, 4, 45))  # similar numbers of steps for all tables
    options["model"]["encoders"]["image_size"] = size
    options["trainer"]["max_epochs"] = epochs
    columns = {field.name for field in fields(RowOptions)}
    options["data"]["init_args"] |= {
        "table": str(path.resolve()),
        "image_root": guess.image_root and str(guess.image_root.resolve()),
        **{name: value for name, value in vars(guess).items() if name in columns},
        **guess.kinds,
        "val_size": val_size,
        "test_size": 0.2 if rows < 20_000 else 0.1,
        "batch_size_per_device": int(np.clip(2 ** round(np.log2(rows / 30)), 4, 32)),
        "max_text_tokens": tokens,
        "resize": resize,
    }
    needed, free = rows * (_IMAGE_BYTES + tokens * _TOKEN_BYTES), free_bytes(cache_dir())
    space = f"up to {decimal(needed)} in {cache_dir()}, where {decimal(free)} are free"
    if 2 * needed < free:
        options["cache"] = {"level": "auto"}
        features = f"stored, {space}; epochs read them"
    else:
        options["cache"] = {"level": "off"}
        features = f"not stored ({space}): set cache.folder, else epochs are slower"
    options["early_stopping"]["monitor"] = metric
    return options, {"features": features} | of_images | of_texts


def _fit_images(table: pa.Table, guess: Guess, folder: Path) -> tuple[int, str, dict[str, str]]:
    """Image size and resize that suit the images of some rows, and the reasons."""
    # spread over the whole table, since it may be sorted
    spread = np.linspace(0, len(table) - 1, min(len(table), _EXAMINED_ROWS)).astype(int)
    some, embedded = unpack_images(table.take(spread), guess.image_column)
    root = embedded or guess.image_root or folder
    sizes = []
    for path in read_image_paths(some, guess.image_column).drop_null().to_pylist():
        with suppress(DataError):  # the data check reports a bad image
            sizes.append(read_image(root / path).size)
    if not sizes:
        return _SMALL, "auto", {}
    short, long = np.sort(np.array(sizes), axis=1).T
    median, share = np.median(short), np.mean(3 * long >= 4 * short)
    size = _LARGE if median > 160 else _SMALL
    resize = "pad" if share >= _MANY_LONG else "auto"
    how = "bars are added" if resize == "pad" else "as the image encoder was trained"
    chosen = {"image size": f"{size} pixels (shorter sides are {median:.0f}, the median)"}
    chosen["resize"] = f"{resize}: {how} ({share:.0%} are 4:3 or longer)"
    return size, resize, chosen


def _fit_texts(table: pa.Table, guess: Guess, encoder: str) -> tuple[int, dict[str, str]]:
    """Maximum number of tokens that suits the texts, and the reasons."""
    texts = read_texts(table, guess.text_columns).drop_null().to_pylist()
    if not texts:
        return _TOKENS[0], {}
    # tokens: 1.4 per English word, one per 2.5 letters in languages with longer words, nearly one
    # per character (3 bytes) in scripts without spaces, and two special ones
    lengths = [2 + max(len(text.split()) * 1.4, len(text.encode()) / 2.5) for text in texts]
    likely = np.percentile(lengths, 95)
    tokens = next((count for count in _TOKENS if count >= likely), _TOKENS[-1])
    why = f"95% have about {likely:.0f} or fewer"
    chosen = {"tokens": f"{tokens} of a text, the rest is cut ({why})"}
    some = texts[:: len(texts) // 1000 + 1]  # spread over the whole table
    letters = [letter for text in some for letter in text if letter.isalpha()]
    foreign = sum(not letter.isascii() for letter in letters) / max(len(letters), 1)
    if foreign > _FOREIGN:
        english = f"but {encoder} was trained on English: see Languages in the documentation"
        chosen["language"] = f"{foreign:.1%} of letters are not a to z, {english} of data"
    return tokens, chosen
