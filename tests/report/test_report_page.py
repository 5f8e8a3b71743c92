"""A report's page of hostile names and of few validation rows, as text and in a browser."""

import os
from functools import partial
from pathlib import Path

import pytest
import torch

from epic_pl.module.evaluator import Evaluator
from epic_pl.module.outputs import SplitOutputs
from epic_pl.module.postprocess import ENOUGH_ROWS, Postprocessor
from epic_pl.report.figures import confusion_counts, draw_figures
from epic_pl.report.scores import coverage_table, headline, label, ranking_interval
from epic_pl.report.tables import (
    absence_table,
    average_rows,
    calibration_table,
    class_table,
)
from epic_pl.utils.html_page import render, svg

RUN = "document.title='RAN'"
HOSTILE = (
    f"<script>{RUN}</script>",
    f'"><img src=x onerror="{RUN}">',
    f"javascript:{RUN}",
    f"</style></svg><script>{RUN}</script>",
    "'-alert(1)-'",
    "long" * 80,
    "\u202eturned",
    "\u0645\u0631\u062d\u0628\u0627",
    "nul\x00l",
    "{{ 7 * 7 }} $\\frac{1}{0}$",
)
CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))


def _page(task="multilabel", names=HOSTILE, rows=500, thresholds=0.5):
    """A report on random predictions of classes with these names."""
    generator = torch.Generator().manual_seed(0)
    count, size = 40, len(names)
    evaluator = Evaluator(list(names), Postprocessor(task, size))
    logits = torch.randn(count, size, generator=generator)
    labels = torch.randint(size, (count,), generator=generator)
    if task == "multilabel":
        labels = (torch.rand(count, size, generator=generator) < 0.3).long()
        evaluator.postprocessor.thresholds.fill_(thresholds)
    there = torch.ones(count, dtype=torch.bool)
    ids = [names[number % size] for number in range(count)]
    outputs = SplitOutputs(logits, labels, there, there, ids)
    classes = class_table(evaluator, outputs)
    mistakes = [
        {"truth": [], "prediction": [name], "probability": 0.5, "text": name * 2, "sample_id": name}
        | ({"truth": [name]} if task == "multiclass" else {})
        for name in names
    ]
    tested = evaluator.scores(logits, labels)
    content = {
        "data": names[0],
        "checkpoint": names[2],
        "text": {"max_tokens": 9, "clean": False, "source": names[1]},
        "task": task,
        "samples": count,
        "headline": headline(evaluator, outputs),
        "ranking": ranking_interval(evaluator, outputs),
        "metrics": {f"test/{name}": value for name, value in tested.items() if name != "loss"},
        "log_loss": tested["loss"],
        "coverage": coverage_table(evaluator, outputs),
        "classes": classes,
        "averages": average_rows(classes),
        "calibration": {"rows": rows} | calibration_table(evaluator, outputs),
        "mistakes": mistakes,
        "absence": absence_table(evaluator, outputs, logits, logits),
    }
    if task == "multiclass":
        content["confusion"] = confusion_counts(evaluator, outputs).tolist()
    return render(
        "report/templates/report.html",
        **content,
        figures={name: svg(figure) for name, figure in draw_figures(content, list(names)).items()},
        images=[None] * len(mistakes),
        label=partial(label, multilabel=task == "multilabel"),
        enough_rows=ENOUGH_ROWS,
        unlearned=[],
    )


@pytest.mark.parametrize(
    ("rows", "thresholds", "said"),
    [
        (50, 0.5, "thresholds are 0.5, since none were fitted to validation rows"),
        (50, 0.4, "by which it predicts, are fitted to 50 rows of"),
        (5000, 0.4, "by which it predicts, are fitted to 5,000 rows of"),
        (None, 0.4, "by which it predicts, are fitted to the validation split;"),
    ],
)
def test_the_page_says_how_many_rows_calibrated_it_and_if_they_are_too_few(rows, thresholds, said):
    page = " ".join(_page(rows=rows, thresholds=thresholds).split())
    few = ", too few rows to calibrate" if rows == 50 else ""
    fitted = "not fitted" if rows is None else f"fitted to {rows:,} rows of the validation split"
    assert f"temperature of 1.00, {fitted}{few}. The calibration error" in page
    assert said in page
    assert page.count("too few rows to calibrate") == (bool(few) and 1 + (thresholds != 0.5))
    assert ("model&#39;s thresholds</td>" in page) == (thresholds != 0.5)


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if not CHROMIUM.is_file():
        pytest.skip(f"needs a browser at {CHROMIUM}")
    with sync_api.sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@pytest.mark.slow
@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_no_name_runs_or_leaves_its_box_and_a_print_has_every_row(task, browser, tmp_path):
    path, asked = tmp_path / "report.html", []
    names = HOSTILE + tuple(f"label {number}" for number in range(17))
    path.write_text(_page(task, names))
    tab = browser.new_page(viewport={"width": 400, "height": 800})
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(path.as_uri())
    assert tab.title() == f"Test report: {HOSTILE[0]}"
    assert tab.locator("script, a:not([href='predictions.csv']), [onerror]").count() == 0
    assert [url for url in asked if not url.startswith((path.as_uri(), "data:"))] == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= 400
    hidden = "[...document.querySelectorAll('.scroll')].filter(box => box.scrollHeight > "
    hidden += "box.clientHeight + 1).length"
    assert tab.evaluate(hidden) > 0
    tab.emulate_media(media="print")
    assert tab.evaluate(hidden) == 0
    tab.close()
