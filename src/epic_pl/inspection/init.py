"""A ready config for a table that nobody has described."""

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from epic_pl.config_files import INIT_CONFIG
from epic_pl.data.images import read_image
from epic_pl.data.tables.columns import SPLIT_NAMES, image_column
from epic_pl.data.tables.embedded import unpack_pictures
from epic_pl.data.tables.reader import SUFFIXES, read_table, source_files
from epic_pl.errors import ConfigError, DataError
from epic_pl.inspection.guess import Guess, guess_columns

_LOOKED_AT = 20
# tables of this size are what the defaults were chosen on
_USUAL_ROWS, _USUAL_EPOCHS = 1000, 30
# with fewer validation rows the best epoch is best by luck
_TELLING_ROWS = 300
# a picture of 224 pixels takes 0.8 MB of keys and values, one of 112 a quarter
_STORED_PIXELS = 4000 * 224**2

_TEMPLATE = """\
# Written by epic-pl data init for {name}: {rows:,} rows, {task}. Look at what it guessed, then
#   epic-pl data check --config {config}
#   epic-pl fit --config {config}
seed_everything: 0
trainer:
  default_root_dir: {runs}
  accelerator: auto
  devices: 1
  max_epochs: {epochs}
  log_every_n_steps: {log_every}
model:
  # these come through pip and need no model hub. With one in reach, try larger ones:
  #   image_encoder: vit_base_patch16_224.augreg_in21k
  #   text_encoder: bert-base-uncased
  # with image_size: 224, and text_pooling: cls
  image_encoder: pypi:dinov2-small
  text_encoder: pypi:all-minilm-l6-v2
  # pixels; 112 for small pictures, 224 sees more detail at about four times the cost
  image_size: {image_size}
  # all-MiniLM was trained to be averaged over its tokens
  text_pooling: mean
  num_prompts: 4
  interaction_layers: 2
  hub_width: 64
  # prompts that only read: what the encoders give is stored once (cache), so an epoch takes seconds
  prompt_attention: read_only
  lr: 3.0e-3
  prompt_lr: 3.0e-4
  weight_decay: 2.5
  head_weight_decay: 5.0
  ema_decay: 0.99
data:
  class_path: TableDataModule
  init_args:
    table: {table}
    image_column: {image_column}
    # where paths start; null is the table's folder, and that of a predict_table its own
    image_root: {image_root}
    text_columns: {text_columns}
    label_column: {label_column}
    # several labels in a cell, such as "red|round", are separated by this
    label_separator: {label_separator}
    # without one, validation and test rows are cut off, stratified
    split_column: {split_column}
    val_size: {val_size}
    test_size: {test_size}
    id_column: {id_column}
    # or skip (leave the row out and count it), or absent (go on without the picture)
    on_bad_sample: error
    batch_size_per_device: {batch_size}
    max_text_tokens: {max_text_tokens}
cache:
  # layers is fastest and takes most disk, boundary takes a quarter; off to augment pictures
  level: {cache}
checkpoint:
  # null keeps the last epoch: {val_rows:,} validation rows {verdict}
  monitor: {kept}
early_stopping:
  monitor: {metric}
  patience: {patience}
"""


def write_config(
    source: Path, force: bool = False, output: Path | None = None
) -> tuple[Path, Guess]:
    """Write ``epic.yaml`` beside a table.

    Args:
        source: the table, or the folder that holds it and no other.
        force: replace a config that is there.
        output: the config's path instead, where nobody may write beside the table.

    Returns:
        The config's path, and what it makes of the table.

    Raises:
        DataError: there is no table, there are several, or its columns cannot be told apart.
        ConfigError: the config is there already.
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
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(_TEMPLATE.format(**_values(path, config, table, guess)), encoding="utf-8")
    return config, guess


def summarize(config: Path, guess: Guess) -> str:
    """What a config that was written makes of its table, in words, with what to run next."""
    image, split, named = guess.image_column, guess.split_column, shlex.quote(str(config))
    lines = {
        "pictures": f"column {image!r}" if image else "none: no column leads to pictures",
        "text": ", ".join(map(repr, guess.text_columns)) or "none: no column reads like text",
        "label": repr(guess.label_column) + _several(guess),
        "splits": repr(split) if split else "none: validation and test rows are cut off",
        "left out": ", ".join(map(repr, guess.unused)) or "no column",
    }
    return (
        f"Wrote {config}. It takes\n"
        + "".join(f"  {name:<10} {found}\n" for name, found in lines.items())
        + "Correct there what it guessed wrong. Then:\n"
        f"  epic-pl data check --config {named}\n"
        f"  epic-pl fit --config {named}"
    )


def _several(guess: Guess) -> str:
    if guess.label_separator is not None:
        return f", several separated by {guess.label_separator!r}"
    return ", lists of several" if guess.multilabel else ""


def find_table(source: Path) -> Path:
    """The table that a path means.

    Raises:
        DataError: none, or several.
    """
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


def _values(path: Path, config: Path, table: pa.Table, guess: Guess) -> dict[str, Any]:
    rows = table.num_rows
    metric = "val/f1_micro" if guess.multilabel else "val/accuracy"
    batch_size = int(np.clip(2 ** round(np.log2(rows / 30)), 4, 32))
    # a small table needs more epochs for as many steps
    epochs = int(np.clip(_USUAL_EPOCHS * _USUAL_ROWS / rows, 9, 45))
    val_rows, size = _validation_rows(table, guess), _image_size(table, guess, path)
    telling = val_rows >= _TELLING_ROWS
    plain = {
        "table": str(path.resolve()),
        "image_column": guess.image_column,
        "image_root": guess.image_root and str(guess.image_root.resolve()),
        "text_columns": guess.text_columns[0]
        if len(guess.text_columns) == 1
        else (guess.text_columns or None),
        "label_column": guess.label_column,
        "label_separator": guess.label_separator,
        "split_column": guess.split_column,
        "id_column": guess.id_column,
        "metric": metric,
        "kept": metric if telling else None,
        "runs": f"runs/{path.resolve().stem}",
    }
    return {
        # JSON is YAML, and quotes whatever a column may be called
        **{name: json.dumps(value, ensure_ascii=False) for name, value in plain.items()},
        "name": path.name,
        "rows": rows,
        "task": "several labels a row" if guess.multilabel else "one label a row",
        "config": shlex.quote(str(config)),
        "epochs": epochs,
        "patience": max(3, epochs // 2) if telling else epochs,
        "val_rows": val_rows,
        "verdict": "tell epochs apart" if telling else "tell too little to choose one",
        "cache": "layers" if rows * size**2 <= _STORED_PIXELS else "boundary",
        "image_size": size,
        "batch_size": batch_size,
        "log_every": int(np.clip(rows // (2 * batch_size), 1, 10)),
        "max_text_tokens": _max_tokens(table, guess),
        "val_size": _val_size(rows),
        "test_size": 0.2 if rows < 20_000 else 0.1,
    }


def _val_size(rows: int) -> float:
    return 0.1 if rows >= 200 else 0.2


def _validation_rows(table: pa.Table, guess: Guess) -> int:
    """As many as the split column names, or as will be cut off."""
    if guess.split_column is not None:
        names = [str(name).strip().lower() for name in table[guess.split_column].to_pylist()]
        given = sum(SPLIT_NAMES.get(name) == "val" for name in names)
        if given:
            return given
    return int(_val_size(table.num_rows) * table.num_rows)


def _image_size(table: pa.Table, guess: Guess, path: Path) -> int:
    """112 for pictures that are small themselves, else 224; both are multiples of 14 and 16."""
    if guess.image_column is None:
        return 112
    head = table
    if guess.image_column in table.column_names:  # no template
        head = table.filter(pc.is_valid(table[guess.image_column])).slice(0, _LOOKED_AT)
    head, embedded = unpack_pictures(head, guess.image_column)
    names = image_column(head, guess.image_column)
    root = embedded or guess.image_root or (path if path.is_dir() else path.parent)
    sides = []
    for name in names.drop_null().slice(0, _LOOKED_AT).to_pylist():
        try:
            sides.append(min(read_image(root / name).size))
        except DataError:
            continue  # the check names it; here one of the others will do
    return 112 if not sides or np.median(sides) <= 160 else 224


def _max_tokens(table: pa.Table, guess: Guess) -> int:
    """A power of two, or three halves of one, that holds about 95% of the texts."""
    pieces = np.zeros(table.num_rows)
    for name in guess.text_columns:
        pieces += [_word_pieces(text or "") for text in table[name].to_pylist()]
    # two special tokens frame the text
    tokens = np.percentile(pieces, 95) + 2
    return next(
        size for size in (16, 24, 32, 48, 64, 96, 128, 192, 256) if size >= min(tokens, 256)
    )


def _word_pieces(text: str) -> float:
    """About how many tokens a text has, in any language."""
    # English has 1.4 a word, or one for 4 letters; scripts without blanks nearly one a character,
    # which is 3 bytes
    return max(len(text.split()) * 1.4, len(text.encode()) / 4)
