"""``epic-pl explain``."""

import argparse
import re
from pathlib import Path

from epic_pl.errors import ConfigError

_STAGES = {"val": "validate", "test": "test", "predict": "predict"}
_MAX_NAME = 60  # characters of a sample's name in a file name


def parser() -> argparse.ArgumentParser:
    """Parser of ``epic-pl explain``, which takes the options of ``epic-pl test`` too."""
    parser = argparse.ArgumentParser(
        "epic-pl explain",
        allow_abbrev=False,
        description="Draw which patches and words each prompt of a trained model attends to. Takes "
        "--config, --ckpt_path and all other options of epic-pl test as well.",
    )
    parser.add_argument("--samples", metavar="ID,ID", help="names of samples (--count of them)")
    parser.add_argument(
        "--count", type=int, default=4, help="how many, spread over the split (%(default)s)"
    )
    parser.add_argument("--split", choices=list(_STAGES), default="test", help="(%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("runs/explain"), help="(%(default)s)")
    return parser


def run(argv: list[str]) -> int:
    """Run ``epic-pl explain ARGV`` and return the exit code.

    Raises:
        EpicError: with a message for the user.
    """
    options, shared = parser().parse_known_args(argv)
    if options.count < 1:
        raise ConfigError(f"--count is {options.count}, but must be at least 1.")
    folder = options.output

    from epic_pl.cli import build_trained
    from epic_pl.evaluation.explain.figures import sample_png
    from epic_pl.evaluation.explain.samples import explain, named_rows, spread_rows
    from epic_pl.inspection.html_page import render
    from epic_pl.validate import check_writable

    check_writable("--output", folder, "index.html")
    module, data, checkpoint = build_trained(shared)
    data.prepare_data()
    data.setup(_STAGES[options.split])
    dataset = data.dataset(options.split)
    if options.samples is None:
        rows = spread_rows(dataset, options.count)
    else:
        rows = named_rows(dataset, options.samples.split(","))
    explanations = explain(module, data, [dataset[row] for row in rows])
    for number, explanation in enumerate(explanations, start=1):
        name = re.sub(r"[^\w.-]", "_", explanation.sample_id)[:_MAX_NAME]
        (folder / f"{number:02}_{name}.png").write_bytes(sample_png(explanation))
    page = render(
        "evaluation/templates/explain.html",
        explanations=explanations,
        checkpoint=checkpoint,
        sample_png=sample_png,
    )
    path = folder / "index.html"
    path.write_text(page, encoding="utf-8")
    print(f"{len(explanations)} samples explained in {path}")
    return 0
