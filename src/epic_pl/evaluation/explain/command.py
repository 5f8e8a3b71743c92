"""``epic-pl explain``."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from epic_pl.arguments import explain_parser
from epic_pl.data import ImageTextDataModule
from epic_pl.errors import ConfigError
from epic_pl.evaluation.explain.figures import draw, saved_quietly
from epic_pl.evaluation.explain.page import page
from epic_pl.evaluation.explain.rows import named_rows, spread_rows
from epic_pl.evaluation.explain.samples import explain
from epic_pl.module import EPICModule

_STAGES = {"val": "validate", "test": "test", "predict": "predict"}
_DPI = 120
# of a sample's name in a file's
_MAX_NAME = 60

Build = Callable[[list[str]], tuple[EPICModule, ImageTextDataModule, str]]


def explain_command(args: Sequence[str], build: Build) -> int:
    """Run ``epic-pl explain ARGS``.

    Args:
        args: what follows ``explain``.
        build: a trained module in evaluation mode, its data and the checkpoint's path, from what
            ``epic-pl test`` takes.

    Returns:
        The exit code.

    Raises:
        EpicError: with a message for the user.
    """
    options, shared = explain_parser().parse_known_args(list(args))
    if options.count < 1:
        raise ConfigError(f"--count is {options.count}: it counts from 1.")
    folder = Path(options.output)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--output {folder} is a file: give a folder, or one yet to be made.")
    module, data, checkpoint = build(shared)
    data.prepare_data()
    data.setup(_STAGES[options.split])
    dataset = data.dataset(options.split)
    if options.samples is None:
        rows = spread_rows(dataset, options.count)
    else:
        rows = named_rows(dataset, options.samples.split(","))
    explanations = explain(module, data, [dataset[row] for row in rows])
    folder.mkdir(parents=True, exist_ok=True)
    for number, explanation in enumerate(explanations, start=1):
        name = re.sub(r"[^\w.-]", "_", explanation.sample_id)[:_MAX_NAME]
        picture = saved_quietly(draw(explanation), _DPI)
        (folder / f"{number:02}_{name}.png").write_bytes(picture)
    path = folder / "index.html"
    path.write_text("\n".join(page(explanations, checkpoint)), encoding="utf-8")
    print(f"{len(explanations)} samples explained in {path}")
    return 0
