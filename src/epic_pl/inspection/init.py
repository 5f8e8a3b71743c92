"""Write a config for a table: configs/table.yaml with what was found out about the table."""

import shlex
import textwrap
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from epic_pl.config_files import INIT_CONFIG
from epic_pl.data.images import read_image
from epic_pl.data.tables.columns import SPLIT_NAMES, image_column
from epic_pl.data.tables.embedded import unpack_pictures
from epic_pl.data.tables.reader import SUFFIXES, read_table, source_files
from epic_pl.errors import ConfigError, DataError
from epic_pl.inspection.guess import Guess, guess_columns

_EXAMINED_PICTURES = 20
_SMALL, _LARGE = 112, 224  # pixels, multiples of 14 and 16
# with fewer validation rows the best epoch is best by chance
_MIN_VAL_ROWS = 300
# the features of a picture of 224 pixels take 0.8 MB at level "layers", of 112 a quarter of it
_MAX_STORED_PIXELS = 4000 * _LARGE**2


def write_config(
    source: Path, force: bool = False, output: Path | None = None
) -> tuple[Path, Guess]:
    """Write ``epic.yaml`` beside a table, or to ``output``.

    Args:
        source: the table, or the folder that holds it and no other.
        force: replace an existing config.
        output: path of the config.

    Raises:
        DataError: there is no table, there are several, or columns cannot be told apart.
        ConfigError: the config exists.
    """
    path = find_table(source)
    folder = (path if path.is_dir() else path.parent).resolve()
    config = output or (source if source.is_dir() else source.parent) / INIT_CONFIG
    if config.is_dir():
        raise ConfigError(f"{config} is a folder: name the file to write, {config / INIT_CONFIG}.")
    if config.exists() and not force:
        raise ConfigError(f"{config} is there already. Keep it, or replace it with --force.")
    table = read_table(path)
    guess = guess_columns(table, folder)
    comment = textwrap.indent(summarize(config, guess), "# ")
    options = _options(path, folder, table, guess)
    text = yaml.safe_dump(options, sort_keys=False, allow_unicode=True, width=100)
    explained = "# table.yaml of the package explains the options."
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(f"{comment}\n{explained}\n{text}", encoding="utf-8")
    return config, guess


def summarize(config: Path, guess: Guess) -> str:
    """The roles of columns in a written config, and the commands to run next."""
    image, split, named = guess.image_column, guess.split_column, shlex.quote(str(config))
    label = repr(guess.label_column)
    if guess.label_separator is not None:
        label += f", several separated by {guess.label_separator!r}"
    elif guess.multilabel:
        label += ", lists of several"
    lines = {
        "pictures": f"column {image!r}" if image else "none: no column leads to pictures",
        "text": ", ".join(map(repr, guess.text_columns)) or "none: no column reads like text",
        "label": label,
        "splits": repr(split) if split else "none: validation and test rows are cut off",
        "left out": ", ".join(map(repr, guess.unused)) or "no column",
    }
    return (
        f"{config}, written by epic-pl data init, takes\n"
        + "".join(f"  {name:<10} {found}\n" for name, found in lines.items())
        + "Correct wrong guesses there. Then:\n"
        f"  epic-pl data check --config {named}\n"
        f"  epic-pl fit --config {named}"
    )


def find_table(source: Path) -> Path:
    """The table at a path, which may be its folder."""
    if not source.is_dir():
        source_files(source)
        return source
    if any((source / name).is_file() for name in ("dataset_dict.json", "dataset_info.json")):
        return source
    tables = [f for f in sorted(source.iterdir()) if f.suffix.lower() in SUFFIXES and f.is_file()]
    if len(tables) != 1:
        found = ", ".join(f.name for f in tables) or "none"
        raise DataError(
            f"{source} should hold one table ({', '.join(SUFFIXES)}); found: {found}. Name the "
            "table itself; several for one task belong into one, told apart by a split column."
        )
    return tables[0]


def _options(path: Path, folder: Path, table: pa.Table, guess: Guess) -> dict[str, Any]:
    """Options of configs/table.yaml, with those that depend on the table."""
    packaged = resources.files("epic_pl.configs") / "table.yaml"
    options: dict[str, Any] = yaml.safe_load(packaged.read_text(encoding="utf-8"))
    rows, texts = table.num_rows, guess.text_columns
    metric = "val/f1_micro" if guess.multilabel else "val/accuracy"
    batch_size = int(np.clip(2 ** round(np.log2(rows / 30)), 4, 32))
    epochs = int(np.clip(30_000 / rows, 9, 45))  # a small table needs more for as many steps
    val_size = 0.1 if rows >= 200 else 0.2
    chooses = _validation_rows(table, guess, val_size) >= _MIN_VAL_ROWS
    size = _image_size(table, guess, folder)
    _set(options["model"], "image_size", size)
    options["trainer"] |= {
        "default_root_dir": f"runs/{path.resolve().stem}",
        "max_epochs": epochs,
        "log_every_n_steps": int(np.clip(rows // (2 * batch_size), 1, 10)),
    }
    options["data"]["init_args"] |= {
        "table": str(path.resolve()),
        "image_column": guess.image_column,
        "image_root": guess.image_root and str(guess.image_root.resolve()),
        "text_columns": texts[0] if len(texts) == 1 else texts or None,
        "label_column": guess.label_column,
        "label_separator": guess.label_separator,
        "split_column": guess.split_column,
        "id_column": guess.id_column,
        "val_size": val_size,
        "test_size": 0.2 if rows < 20_000 else 0.1,
        "batch_size_per_device": batch_size,
        "max_text_tokens": _max_tokens(table, texts),
    }
    options["cache"] = {"level": "layers" if rows * size**2 <= _MAX_STORED_PIXELS else "boundary"}
    # with few validation rows the last epoch is kept
    options["checkpoint"]["monitor"] = metric if chooses else None
    options["early_stopping"] |= {
        "monitor": metric,
        "patience": max(3, epochs // 2) if chooses else epochs,
    }
    return options


def _set(section: dict[str, Any], name: str, value: Any) -> None:
    """Set an option, at whatever depth of a section it is."""
    for key, inner in section.items():
        if key == name:
            section[key] = value
        elif isinstance(inner, dict):
            _set(inner, name, value)


def _validation_rows(table: pa.Table, guess: Guess, val_size: float) -> int:
    """Validation rows in the split column, or the number that will be cut off."""
    names = table[guess.split_column].to_pylist() if guess.split_column else ()
    given = sum(SPLIT_NAMES.get(str(name).strip().lower()) == "val" for name in names)
    return given or int(val_size * table.num_rows)


def _image_size(table: pa.Table, guess: Guess, folder: Path) -> int:
    """Smaller pictures than 160 pixels need no larger input than 112."""
    name = guess.image_column
    if name is None:
        return _SMALL
    if name in table.column_names:  # no template
        table = table.filter(pc.is_valid(table[name]))
    head, embedded = unpack_pictures(table.slice(0, _EXAMINED_PICTURES), name)
    root, sides = embedded or guess.image_root or folder, []
    for path in image_column(head, name).drop_null().to_pylist():
        with suppress(DataError):  # the check reports it
            sides.append(min(read_image(root / path).size))
    return _LARGE if sides and np.median(sides) > 160 else _SMALL


def _max_tokens(table: pa.Table, columns: list[str]) -> int:
    """Room for about 95% of the texts."""
    lengths = np.full(table.num_rows, 2.0)  # special tokens
    for name in columns:
        lengths += [_count_tokens(text or "") for text in table[name].to_pylist()]
    return int(np.clip(np.ceil(np.percentile(lengths, 95)), 16, 256))


def _count_tokens(text: str) -> float:
    """Estimated number of tokens in any language."""
    # English has 1.4 a word, or one for 4 letters; scripts without blanks nearly one a character,
    # which takes 3 bytes
    return max(len(text.split()) * 1.4, len(text.encode()) / 4)
