"""Rows, tables and plot from finished runs."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score, f1_score

import fake_runs
from epic_pl.experiments.compare.results import comparison_rows
from epic_pl.experiments.compare.summary import _draw_comparison, show, write_comparison
from epic_pl.utils.errors import ConfigError

TRUTH = [0, 1, 2, 1, 0, 2, 1, 1] * 10


def _wrong_in(count):
    predicted = np.array(TRUTH)
    predicted[:count] = (predicted[:count] + 1) % 3
    return predicted


@pytest.fixture
def runs(tmp_path):
    """Three methods with two seeds: all done, one failed, none done."""

    def done(name, seed, wrong):
        return fake_runs.done(tmp_path, name, seed, TRUTH, _wrong_in(wrong))

    failure = "RuntimeError: out of memory (log: x/log.txt)"
    return [
        done("epic", 0, 8),
        done("lora", 0, 40),
        replace(fake_runs.run(tmp_path, "full", 0), failure=failure),
        done("epic", 1, 16),
        replace(fake_runs.run(tmp_path, "lora", 1), failure=failure),
        replace(fake_runs.run(tmp_path, "full", 1), failure="OSError: disk full"),
    ]


def _by_name(runs):
    return {(row["method"], row["metric"]): row for row in comparison_rows(runs, "epic")}


def test_rows_have_means_spreads_costs_and_the_status_of_each_method(runs):
    rows = _by_name(runs)
    epic = rows["epic", "accuracy"]
    assert (epic["values"], epic["seeds"], epic["status"]) == ([0.9, 0.8], [0, 1], "ok")
    assert epic["mean"] == pytest.approx(0.85)
    assert epic["std"] == pytest.approx(0.1 / 2**0.5)
    assert (epic["samples_per_s"], epic["trainable"], epic["p_value"]) == (15, 100, None)
    assert rows["epic", "f1_macro"]["mean"] == pytest.approx(0.425)
    assert ("epic", "loss") not in rows
    lora = rows["lora", "accuracy"]
    assert (lora["mean"], lora["std"], lora["seeds"]) == (0.5, None, [0])
    assert lora["status"] == "seed 1 failed: RuntimeError: out of memory (log: x/log.txt)"
    assert lora["difference"] == pytest.approx(0.5 - 0.85)
    assert lora["low"] < lora["difference"] < lora["high"] < 0
    assert lora["p_value"] < 0.01
    full = rows["full", "accuracy"]
    assert full["mean"] is full["trainable"] is full["p_value"] is None
    assert "seed 0 failed: RuntimeError" in full["status"]
    assert full["status"].endswith("seed 1 failed: OSError: disk full")
    assert ("full", "f1_macro") not in rows
    assert rows["lora", "f1_macro"]["p_value"] is None
    # class 1 has half of the test rows
    assert rows["majority", "accuracy"]["mean"] == 0.5


def test_a_method_is_compared_with_its_better_run_on_one_modality(tmp_path, capsys):
    wrong = {"epic": 16, "epic-text": 8, "epic-image": 40, "lora": 4, "lora-text": 4}
    runs = [fake_runs.done(tmp_path, name, 0, TRUTH, _wrong_in(w)) for name, w in wrong.items()]
    rows = write_comparison(runs, tmp_path / "out", "epic", "")
    gain = {row["method"]: row["over_alone"] for row in rows if row["metric"] == "accuracy"}
    assert [name for name, each in gain.items() if each] == ["epic"]  # lora has one of the two
    assert gain["epic"]["alone"] == "epic-text"
    assert gain["epic"]["difference"] == pytest.approx(-0.1)
    assert gain["epic"]["low"] < -0.1 < gain["epic"]["high"] < 0
    told = (
        "epic: text alone 90.0, image alone 50.0, together 80.0 %. This minus the text alone: -10.0"
    )
    assert told in (tmp_path / "out" / "comparison.md").read_text()
    show(rows)
    assert told in capsys.readouterr().out
    runs[2] = replace(runs[2], result=None, failure="no memory")
    assert all(row["over_alone"] is None for row in comparison_rows(runs, "epic"))


def test_several_labels_are_led_by_the_ranking_and_have_each_threshold_in_a_column(tmp_path):
    rng = np.random.default_rng(0)
    truth, names = rng.random((60, 3)) < 0.4, ["blue", "green", "red"]
    runs = []
    for name, noise in (("a", 0.5), ("b", 1.5)):
        run = fake_runs.run(tmp_path, name)
        scores = 1 / (1 + np.exp(-2 * truth - noise * rng.normal(size=truth.shape) + 2))
        fake_runs.write_labels(run.folder, truth, scores, names)
        values = {"map": average_precision_score(truth, scores)}
        for metric, at in (("f1_micro", 0.5), ("f1_micro_tuned", [0.1, 0.2, 0.3])):
            values[metric] = f1_score(truth, scores >= np.array(at), average="micro")
        run.result = fake_runs.result(0, 0) | {"task": "multilabel", "thresholds": [0.1, 0.2, 0.3]}
        run.result["metrics"] = {"f1_macro": 0.1, **values}
        runs.append(run)
    rows = write_comparison(runs, tmp_path / "out", "a", "")
    assert [row["metric"] for row in rows][1:] == 2 * [
        "map",
        "f1_micro",
        "f1_micro_tuned",
        "f1_macro",
    ]
    found = {(row["method"], row["metric"]): row for row in rows}
    assert found["majority", "map"]["mean"] == pytest.approx(truth.mean())
    for metric in ("map", "f1_micro", "f1_micro_tuned"):
        row, first = found["b", metric], found["a", metric]
        assert row["difference"] == pytest.approx(row["mean"] - first["mean"])
        assert row["low"] < row["difference"] < row["high"]
        assert (row["p_value"] is None) == (metric != "map")
    assert found["b", "map"]["high"] < 0
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert "| method | map % | difference from a (95%) | f1_micro % | difference" in text
    assert "all at thresholds fitted on validation" in text


@pytest.mark.parametrize("undefined", [1, 3])  # of three seeds
def test_a_score_that_a_test_split_does_not_define_is_missing(undefined, tmp_path, capsys):
    """Without a positive label there is no mean average precision."""
    rng, runs, scored = np.random.default_rng(0), [], []
    names = ["epic", "epic-text", "epic-image", "lora"]
    for seed in range(3):
        truth = (rng.random((20, 2)) < 0.4) & (seed >= undefined)
        for name in names if seed == 0 else [each for each in names if each != "epic-text"]:
            run, scores = fake_runs.run(tmp_path, name, seed), rng.random((20, 2))
            fake_runs.write_labels(run.folder, truth, scores, ["dent", "scratch"])
            value = average_precision_score(truth, scores) if seed >= undefined else np.nan
            metrics = {"metrics": {"map": value, "f1_micro": 0.25}, "thresholds": None}
            run.result = fake_runs.result(seed, 0) | {"task": "multilabel"} | metrics
            runs.append(run)
            scored += [value] * (name == "epic")
    rows = write_comparison(runs, tmp_path / "out", "epic", "")

    def refuse(constant):
        raise AssertionError(constant)

    text = (tmp_path / "out" / "comparison.json").read_text()
    assert json.loads(text, parse_constant=refuse) == rows
    first = {row["method"]: row for row in rows if row["metric"] == "map"}
    assert list(first) == ["majority", *names]
    epic, defined = first["epic"], scored[undefined:]
    assert (epic["seeds"], epic["status"]) == ([0, 1, 2], "ok")
    assert epic["values"] == [None] * undefined + defined
    assert epic["mean"] == (pytest.approx(np.mean(defined)) if defined else None)
    assert epic["std"] == (pytest.approx(np.std(defined, ddof=1)) if defined else None)
    assert (first["majority"]["mean"] is None) == (not defined)
    assert first["epic-text"]["mean"] is epic["over_alone"] is None  # which has the first seed only
    show(rows)
    assert str(runs[0]) == "epic, seed 0: test map nan"
    for place in ((tmp_path / "out" / "comparison.md").read_text(), capsys.readouterr().out):
        assert "nan" not in place
    known = [row for row in rows if row["method"] == "epic" and row["metric"] == "f1_micro"]
    assert known[0]["mean"] == 0.25


def test_intervals_are_resampled_over_images(tmp_path):
    """Five rows of each image, all right or all wrong, are no more evidence than one."""
    widths = []
    for repeats in (1, 5):
        images = [f"{number}.jpg" for number in range(len(TRUTH)) for _ in range(repeats)]
        ids = [f"{name}#{row % repeats}r1n" for row, name in enumerate(images)]
        truth = np.repeat(TRUTH, repeats)
        root, runs = tmp_path / str(repeats), []
        for name, wrong in (("epic", 20), ("lora", 40)):
            predicted = np.repeat(_wrong_in(wrong), repeats)
            runs.append(fake_runs.done(root, name, 0, truth, predicted, ids, images))
        row = _by_name(runs)["lora", "accuracy"]
        widths.append(row["high"] - row["low"])
    assert widths[0] == pytest.approx(widths[1])


def test_seeds_with_splits_of_their_own_are_paired_seed_by_seed(tmp_path):
    runs = []
    for seed, truth, predicted in (
        (0, TRUTH, {"epic": _wrong_in(8), "lora": _wrong_in(40)}),
        (1, [0] * 80, {"epic": [0] * 56 + [1] * 24, "lora": [0] * 48 + [1] * 32}),
    ):
        ids = [f"{seed}-{number}" for number in range(80)]
        for name, each in predicted.items():
            runs.append(fake_runs.done(tmp_path, name, seed, truth, each, ids))
    rows = _by_name(runs)
    lora = rows["lora", "accuracy"]
    assert lora["difference"] == pytest.approx(np.mean([40 - 72, 48 - 56]) / 80)
    assert lora["low"] < lora["difference"] < lora["high"] < 0
    assert rows["majority", "accuracy"]["values"] == [0.5, 1.0]
    # a seed of only one method cannot be paired
    assert _by_name(runs[:3])["lora", "accuracy"]["p_value"] is None


def test_files_and_console_have_the_rows(runs, tmp_path, monkeypatch, capsys):
    runs.append(fake_runs.done(tmp_path, "late_fusion_mlp", 0, TRUTH, _wrong_in(30)))
    rows = write_comparison(runs, tmp_path, "epic", "On one core.")
    assert json.loads((tmp_path / "comparison.json").read_text()) == rows
    text = (tmp_path / "comparison.md").read_text()
    for part in (
        "| epic | 85.0 ± 7.1 |",
        "- `full`: seed 0 failed",
        "On one core. Storing the features took 8 s.",
    ):
        assert part in text
    with Image.open(tmp_path / "comparison.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20

    monkeypatch.setenv("COLUMNS", "80")
    show(rows)
    printed = capsys.readouterr().out
    assert "85.0 ± 7.1" in printed
    assert "…" not in printed
    assert "full: seed 0 failed" in printed


def test_nothing_is_tested_or_written_without_a_result_before_all_runs_have_ended(runs, tmp_path):
    runs[2].failure = ""
    rows = write_comparison(runs, tmp_path, "epic", "On one core.")
    assert all(row["p_value"] is None for row in rows)
    assert any(row["status"].startswith("seed 0 not finished") for row in rows)
    assert "Not complete" in (tmp_path / "comparison.md").read_text()
    (tmp_path / "comparison.md").unlink()
    write_comparison(runs[2:3], tmp_path, "full", "")
    assert not (tmp_path / "comparison.md").exists()


def test_the_plot_has_a_line_for_each_trained_method_with_its_intervals(runs):
    rows = comparison_rows(runs, "epic")
    score, difference, *costs = _draw_comparison(rows, "epic").axes
    assert [label.get_text() for label in score.get_yticklabels()] == ["lora", "epic"]
    (bars,) = difference.collections  # epic is the reference
    (segment,) = bars.get_segments()
    lora = _by_name(runs)["lora", "accuracy"]
    assert segment[:, 0] == pytest.approx([100 * lora["low"], 100 * lora["high"]])
    spreads = [bars.get_segments()[0][:, 0] for bars in score.collections]
    assert spreads[1] == pytest.approx([85 - 100 * 0.1 / 2**0.5, 85 + 100 * 0.1 / 2**0.5])
    assert "±" in score.get_xlabel()
    assert [axes.get_xlabel() for axes in costs] == ["training, s", "trained parameters"]
    assert [len(axes.lines) for axes in costs] == [2, 2]
    free = [row | {"trainable": 0} if row["method"] == "lora" else row for row in rows]
    assert len(_draw_comparison(free, "epic").axes[3].lines) == 1  # a control trains nothing


@pytest.mark.parametrize(
    "damage",
    [
        {"task": [1]},
        {"metrics": {}},
        {"metrics": {"accuracy": None}},
        {"seconds": 10**400},
        b"no table",
        None,
    ],
)
def test_a_damaged_result_is_named(damage, runs):
    path = runs[1].folder / "predictions.parquet"
    if isinstance(damage, dict):
        runs[1].result.update(damage)
    elif damage is None:
        path.unlink()
    else:
        path.write_bytes(damage)
    with pytest.raises(ConfigError, match=r"result\.json or predictions\.parquet in .*lora-0 "):
        comparison_rows(runs, "epic")
