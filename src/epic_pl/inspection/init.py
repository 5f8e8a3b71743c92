"""Write a config for a table: configs/table.yaml with options that fit the table."""

import shlex
import textwrap
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from epic_pl.config_files import INIT_CONFIG, first_config, packaged_file, read_yaml
from epic_pl.data.images import read_image
from epic_pl.data.tables.columns import RowOptions, read_columns, read_image_paths
from epic_pl.data.tables.embedded import unpack_images
from epic_pl.data.tables.folders import holds_classes
from epic_pl.data.tables.hf import is_saved_dataset
from epic_pl.data.tables.reader import SUFFIXES, read_table
from epic_pl.errors import ConfigError, DataError, printable
from epic_pl.files import write_text
from epic_pl.inspection.guess import Guess, guess_columns

_EXAMINED_ROWS = 50
_SMALL, _LARGE = 112, 224  # pixels, multiples of 14 and 16
# minimum number of validation rows; with fewer, the best epoch is best by chance
_ENOUGH = 300
# features of an image take 0.8 MB at level "layers" with 224 pixels, a quarter of it with 112
_MAX_STORED_PIXELS = 4000 * _LARGE**2


def write_config(
    source: Path,
    force: bool = False,
    output: Path | None = None,
    **columns: Any,
) -> tuple[Path, Guess]:
    """Write a config for a table with guesses for the roles of its columns.

    Args:
        source: a table, or a folder with one table.
        force: replace a config that exists.
        output: file to write; None is ``epic.yaml`` beside the table.
        columns: of ``image``, ``text`` and ``label``, see
            :func:`~epic_pl.inspection.guess.guess_columns`.

    Raises:
        DataError: there is no table, there are several, or columns cannot be guessed.
        ConfigError: the config exists and ``force`` is False.
    """
    path = find_table(source)
    folder = (path if path.is_dir() else path.parent).resolve()
    config = output or (source if source.is_dir() else source.parent) / INIT_CONFIG
    if config.exists() and not force:
        raise ConfigError(f"{config} exists already. Keep it, or replace it with --force.")
    table = read_table(path)
    guess = guess_columns(table, folder, **columns)
    comment = textwrap.indent(summarize(config, guess), "# ")
    options = _options(path, folder, table, guess)
    # as in compare and tune, so that tables of the same name do not share runs
    options["trainer"]["default_root_dir"] = f"runs/{first_config(['--config', str(config)])}"
    text = yaml.safe_dump(options, sort_keys=False, allow_unicode=True, width=100)
    about = "# table.yaml, which ships with the package, explains the options."
    write_text(config, f"{comment}\n{about}\n{text}")
    return config, guess


def summarize(config: Path, guess: Guess) -> str:
    """The roles of columns in a written config, and the commands to run next."""
    # a bare name may mean a packaged config
    named = shlex.quote(f"./{config}" if str(config) == config.name else str(config))
    kept = "last" if guess.val_rows < _ENOUGH else "best"
    several = f", separated by {guess.label_separator!r}" if guess.label_separator else ""
    likely = [
        f"; {name} could be one: {shlex.join(['--image', str(guess.image_column), '--text', name])}"
        for name in guess.likely_texts
    ]
    lines = {
        "images": guess.image_column or "no column of images",
        "text": ", ".join(guess.text_columns) or "".join(["no column of texts", *likely[:1]]),
        "label": guess.label_column + (f" (several{several})" if guess.multilabel else ""),
        "splits": guess.split_column or "validation and test rows are drawn",
        "keeps": f"the {kept} epoch (best from {_ENOUGH} validation rows, here {guess.val_rows:,})",
        "left out": ", ".join(guess.unused) or "no column",
    }
    return (
        f"{config}, written by epic-pl data init, takes\n"
        + "".join(f"  {name:<10} {printable(value)}\n" for name, value in lines.items())
        + "Correct wrong guesses there. Then:\n"
        f"  epic-pl data check --config {named}\n"
        f"  epic-pl fit --config {named}\n"
        "On a small table a plain network may be better; compare them on the test split:\n"
        f"  epic-pl compare --config {named} --methods epic,no_prompts,late_fusion_mlp"
    )


def find_table(source: Path) -> Path:
    """The table at a path, which may be its folder."""
    if not source.is_dir() or is_saved_dataset(source):
        return source
    tables = [f for f in sorted(source.iterdir()) if f.suffix.lower() in SUFFIXES]
    if not tables and holds_classes(source):
        return source
    if len(tables) != 1:
        names = ", ".join(f.name for f in tables) or "none"
        raise DataError(
            f"{source} should hold one table ({', '.join(SUFFIXES)}) or a folder of images for "
            f"each class; found: {names}. Name the table itself; several for one task belong "
            "into one, told apart by a split column."
        )
    return tables[0]


def _options(path: Path, folder: Path, table: pa.Table, guess: Guess) -> dict[str, Any]:
    """Options of configs/table.yaml, adapted to the table."""
    options: dict[str, Any] = read_yaml(packaged_file("", "table.yaml"))
    rows, names = table.num_rows, guess.text_columns
    texts = names[0] if len(names) == 1 else names or None
    inputs = RowOptions(image_column=guess.image_column, text_columns=texts)
    metric = "val/f1_micro" if guess.multilabel else "val/accuracy"
    epochs = int(np.clip(30_000 / rows, 9, 45))  # similar numbers of steps for all tables
    chooses = guess.val_rows >= _ENOUGH
    others = ("multilabel", "unused", "val_rows", "likely_texts")
    columns = {name: value for name, value in vars(guess).items() if name not in others}
    size = _image_size(table, guess, folder)
    options["model"]["encoders"]["image_size"] = size
    options["trainer"]["max_epochs"] = epochs
    options["data"]["init_args"] |= {
        "table": str(path.resolve()),
        **columns,
        "image_root": guess.image_root and str(guess.image_root.resolve()),
        "text_columns": texts,
        "test_size": 0.2 if rows < 20_000 else 0.1,
        "batch_size_per_device": int(np.clip(2 ** round(np.log2(rows / 30)), 4, 32)),
        "max_text_tokens": _max_tokens(read_columns(table, inputs).texts),
    }
    options["cache"] = {"level": "layers" if rows * size**2 <= _MAX_STORED_PIXELS else "boundary"}
    patience = max(3, epochs // 2) if chooses else None
    options["checkpoint"]["monitor"] = metric if chooses else None
    options["early_stopping"] |= {"monitor": metric, "patience": patience}
    return options


def _image_size(table: pa.Table, guess: Guess, folder: Path) -> int:
    """Input size in pixels: 112 if the median shorter side is at most 160, else 224."""
    head, embedded = unpack_images(table.slice(0, _EXAMINED_ROWS), guess.image_column)
    root = embedded or guess.image_root or folder
    sides = []
    for path in read_image_paths(head, guess.image_column).drop_null().to_pylist():
        with suppress(DataError):  # the check reports it
            sides.append(min(read_image(root / path).size))
    return _LARGE if sides and np.median(sides) > 160 else _SMALL


def _max_tokens(texts: pa.Array) -> int:
    """Estimated 95th percentile of tokens per text, with special tokens, for any language."""
    # English has 1.4 tokens per word, languages with longer words one for 2.5 letters, and scripts
    # without spaces nearly one per character, which takes 3 bytes
    filled = [text or "" for text in texts.to_pylist()]
    lengths = [2 + max(len(text.split()) * 1.4, len(text.encode()) / 2.5) for text in filled]
    return int(np.clip(np.ceil(np.percentile(lengths, 95)), 32, 256))
