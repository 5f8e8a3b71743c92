"""Rows, tables and plot from runs that nobody trained."""

import csv
import json

import fake_runs
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from epic_pl.experiments.compare.report import show, write_report
from epic_pl.experiments.compare.results import comparison_rows
from epic_pl.experiments.compare.runner import Outcome

TRUTH = [0, 1, 2, 1, 0, 2, 1, 1] * 10


def _wrong_in(count):
    guessed = np.array(TRUTH)
    guessed[:count] = (guessed[:count] + 1) % 3
    return guessed


@pytest.fixture
def outcomes(tmp_path):
    """Three methods with two seeds: all done, one failed, nothing but failures."""

    def done(name, seed, wrong):
        return fake_runs.done(tmp_path, name, seed, TRUTH, _wrong_in(wrong))

    failed = "failed: RuntimeError: out of memory (log: x/log.txt)"
    return [
        done("epic", 0, 8),
        done("lora", 0, 40),
        Outcome(fake_runs.run(tmp_path, "full", 0), "failed", failed),
        done("epic", 1, 16),
        Outcome(fake_runs.run(tmp_path, "lora", 1), "failed", failed),
        Outcome(fake_runs.run(tmp_path, "full", 1), "not run", "not run: budget spent"),
    ]


@pytest.fixture
def rows(outcomes):
    return {(row["method"], row["metric"]): row for row in comparison_rows(outcomes, "epic")}


def test_means_and_spreads_are_over_the_seeds_that_are_done(rows):
    epic = rows["epic", "accuracy"]
    assert epic["values"] == [0.9, 0.8]
    assert epic["mean"] == pytest.approx(0.85)
    assert epic["std"] == pytest.approx(0.1 / 2**0.5)
    assert (epic["samples_per_s"], epic["trainable"], epic["seeds"]) == (15, 100, [0, 1])
    assert (epic["status"], epic["p_value"]) == ("ok", None)
    assert rows["epic", "f1_macro"]["mean"] == pytest.approx(0.425)
    lora = rows["lora", "accuracy"]
    assert (lora["mean"], lora["std"], lora["seeds"]) == (0.5, None, [0])
    assert lora["status"] == "seed 1 failed: RuntimeError: out of memory (log: x/log.txt)"
    assert ("epic", "loss") not in rows


def test_the_others_are_compared_with_the_reference(rows):
    lora = rows["lora", "accuracy"]
    assert lora["difference"] == pytest.approx(0.5 - 0.85)
    assert lora["low"] < lora["difference"] < lora["high"] < 0
    assert lora["p_value"] < 0.01


def test_a_method_of_which_nothing_is_done_has_one_row_that_says_why(rows):
    assert ("full", "f1_macro") not in rows
    row = rows["full", "accuracy"]
    assert row["mean"] is row["trainable"] is row["p_value"] is None
    assert "seed 0 failed: RuntimeError" in row["status"]
    assert row["status"].endswith("seed 1 not run: budget spent")


def test_the_majority_is_that_of_the_training_labels(rows):
    # class 1 has half of the training rows; in the test split it has half of them too
    assert rows["majority", "accuracy"]["mean"] == 0.5
    assert rows["majority", "f1_macro"]["mean"] == pytest.approx((2 / 3) / 3)
    assert rows["majority", "accuracy"]["seconds"] is None


def test_other_samples_are_not_paired(outcomes, tmp_path):
    ids = [f"other{number}" for number in range(len(TRUTH))]
    other = fake_runs.done(tmp_path, "pmf", 0, TRUTH, _wrong_in(70), ids)
    (row,) = (
        row
        for row in comparison_rows([*outcomes, other], "epic")
        if (row["method"], row["metric"]) == ("pmf", "accuracy")
    )
    assert row["mean"] == pytest.approx(1 / 8)
    assert row["p_value"] is None


def test_seeds_with_splits_of_their_own_are_paired_seed_by_seed(tmp_path):
    def done(name, seed, wrong):
        ids = [f"{seed}-{number}" for number in range(len(TRUTH))]
        return fake_runs.done(tmp_path, name, seed, TRUTH, _wrong_in(wrong), ids)

    wrong = {"epic": (8, 24), "lora": (40, 32)}
    runs = [done(name, seed, wrong[name][seed]) for seed in (0, 1) for name in wrong]
    *_, one, other = runs
    # the second split has other labels: its majority is wrong
    fake_runs.write_predictions(other.run.folder, [0] * 80, [0] * 48 + [1] * 32, _ids(other))
    fake_runs.write_predictions(one.run.folder, [0] * 80, [0] * 56 + [1] * 24, _ids(one))
    rows = comparison_rows(runs, "epic")
    lora, majority = (
        next(row for row in rows if (row["method"], row["metric"]) == (name, "accuracy"))
        for name in ("lora", "majority")
    )
    assert lora["difference"] == pytest.approx(np.mean([40 - 72, 48 - 56]) / 80)
    assert lora["low"] < lora["difference"] < lora["high"] < 0
    assert majority["values"] == [0.5, 0.0]
    # a seed that only one of them has cannot be paired
    (lora,) = (
        row
        for row in comparison_rows(runs[:3], "epic")
        if (row["method"], row["metric"]) == ("lora", "accuracy")
    )
    assert lora["p_value"] is None


def _ids(outcome):
    return [f"{outcome.run.seed}-{number}" for number in range(len(TRUTH))]


def test_nothing_done_still_gives_rows_and_files(tmp_path):
    lone = Outcome(fake_runs.run(tmp_path, "epic", 0), "failed", "failed: it burns")
    rows = comparison_rows([lone], "epic")
    write_report(rows, tmp_path, "epic", "notes")
    assert "- `epic`: seed 0 failed: it burns" in (tmp_path / "comparison.md").read_text()


def test_files_say_the_same(outcomes, tmp_path):
    rows = comparison_rows(outcomes, "epic")
    write_report(rows, tmp_path, "epic", "On one core.")
    assert json.loads((tmp_path / "comparison.json").read_text()) == rows
    wanted = {"method", "metric", "mean", "std", "trainable", "samples_per_s", "peak_memory_mb"}
    assert all(wanted <= set(row) for row in rows)
    with (tmp_path / "comparison.csv").open() as file:
        (epic, *_) = [row for row in csv.DictReader(file) if row["method"] == "epic"]
    assert (epic["metric"], epic["values"], epic["seeds"]) == ("accuracy", "0.9 0.8", "0 1")
    text = (tmp_path / "comparison.md").read_text()
    assert "| epic | 85.0 ± 7.1 |" in text
    assert "- `full`: seed 0 failed" in text
    assert "On one core." in text
    with Image.open(tmp_path / "comparison.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20


def test_the_console_shows_the_main_metric_and_what_is_missing(outcomes):
    console = Console(width=80, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    show(comparison_rows(outcomes, "epic"), console)
    said = console.export_text()
    assert "85.0 ± 7.1" in said
    assert "…" not in said
    assert "full: seed 0 failed" in said
