"""``epic-pl explain``."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from epic_pl.cli.commands.parser import PositiveInt

_STAGES = {"val": "validate", "test": "test", "predict": "predict"}
_MAX_NAME = 60  # maximum characters of a sample's name in a file name


def explain(
    model: str,
    fit_options: Sequence[str],
    samples: str | None = None,
    count: PositiveInt = 4,
    split: Literal["val", "test", "predict"] = "test",
    output: Path = Path("runs/explain"),
) -> None:
    """Draw the patches and words that each prompt of a trained model attends to.

    Args:
        model: a run's folder or a checkpoint, or best or last of the newest run.
        fit_options: options of epic-pl fit.
        samples: names of samples, joined by commas (--count samples).
        count: number of samples, spread over the split.
        split: split of the samples.
        output: folder of the page and its images.

    Raises:
        EpicError: if the model cannot be explained or the output cannot be written.
    """
    from epic_pl.inference.explain.figures import draw_explanation, sample_svg
    from epic_pl.inference.explain.samples import (
        added_by_source,
        explain_sample,
        in_points,
        predict_alone,
        rows_of_ids,
        spread_rows,
    )
    from epic_pl.run.epic_cli import build_trained
    from epic_pl.utils.errors import counted
    from epic_pl.utils.files import write_bytes, write_text
    from epic_pl.utils.html_page import png, render
    from epic_pl.utils.validate import check_writable

    check_writable("--output", output, "index.html")
    module, data, checkpoint = build_trained([*fit_options, f"--ckpt_path={model}"])
    data.prepare_data()
    data.setup(_STAGES[split])
    dataset = data.dataset(split)
    ids = None if samples is None else samples.split(",")
    rows = rows_of_ids(dataset, ids) if ids else spread_rows(len(dataset), count)
    chosen = [dataset[row] for row in rows]
    explanations = [explain_sample(module, data.processor, sample) for sample in chosen]
    for number, explanation in enumerate(explanations, start=1):
        name = re.sub(r"[^\w.-]", "_", explanation.sample_id)[:_MAX_NAME]
        write_bytes(output / f"{number:02}_{name}.png", png(draw_explanation(explanation)))
    page = render(
        "inference/templates/explain.html",
        explanations=explanations,
        checkpoint=checkpoint,
        alone=[predict_alone(module, data.processor, sample) for sample in chosen],
        added=[in_points(added_by_source(module, data.processor, each)) for each in chosen],
        data=data.name,
        never_missing=module.model.head.never_missing,
        sample_svg=sample_svg,
    )
    write_text(output / "index.html", page)
    print(f"{counted(len(explanations), 'samples')} explained in {output / 'index.html'}")
