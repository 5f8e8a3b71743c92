"""One run: its result and predictions, the cache level, and resuming."""

import json

import lightning as L
import numpy as np
import pyarrow.parquet as pq
import pytest

import tiny_runs
from epic_pl.data.dataset import ImageTextDataset
from epic_pl.experiments.compare.plan import Variant, plan
from epic_pl.experiments.compare.statistics import (
    MAIN_METRIC,
    Predictions,
    sums_of_samples,
    value_of,
)
from epic_pl.experiments.training import store_features, train_and_test
from epic_pl.module.checkpoint_io import read_checkpoint


@pytest.fixture
def train(tmp_path, config):
    """Train a method in the folder of its name."""

    def train(method, *options):
        every = ["--config", config, f"--model.method={method}", *options]
        return train_and_test(every, tmp_path / method)

    return train


def test_a_comparison_reads_each_image_once_whatever_comes_first(
    config, tmp_path, monkeypatch, capfd
):
    tiny_runs.workers_here(monkeypatch)
    read: list[str] = []
    image = ImageTextDataset.image
    monkeypatch.setattr(
        ImageTextDataset, "image", lambda self, path: read.append(path) or image(self, path)
    )
    options = ["--config", config, "--cache.level=layers", f"--cache.folder={tmp_path}/features"]
    methods = [
        Variant(name, name, ()) for name in ("LinearProbe", "LoRA", "EPIC")
    ]  # LoRA stores nothing
    parts = Variant("Parts", "Parts", ("--model.method.interaction_layers=[[2,2]]",))
    runs = plan([*methods, parts], 1, options, tmp_path / "out")
    store_features(runs)
    assert len(read) == 3  # distinct images
    assert "from stored tokens of layer 1" in capfd.readouterr().out
    assert json.loads((tmp_path / "out/runs/features/result.json").read_text())["seconds"] > 0
    store_features(runs)
    assert len(read) == 3


MULTILABEL = ["--data.label_separator=|"]
MULTILABEL += [f"--{section}.monitor=val/f1_micro" for section in ("checkpoint", "early_stopping")]


@pytest.mark.parametrize(
    ("method", "task", "level"),
    [
        ("LinearProbe", "multilabel", "layers"),
        ("EPIC", "multiclass", "layers"),
        ("LoRA", "multiclass", "off"),
    ],
)
def test_a_run_has_result_and_predictions_and_caches_what_it_can(
    method, task, level, train, tmp_path
):
    cached = ["--cache.level=boundary", f"--cache.folder={tmp_path}/features"]
    result = train(method, *cached, *(MULTILABEL if task == "multilabel" else []))
    assert (result["cache_level"], result["epochs"]) == (level, 2)
    assert result["task"] == task
    assert result["trainable"] > 0
    assert {"seconds", "samples_per_s", "peak_memory_mb"} <= set(result)
    assert result["latency_ms"] > 0
    path = tmp_path / method / "predictions.parquet"
    table = pq.read_table(path)
    assert table["sample_id"].to_pylist() == [f"test{number}" for number in range(7)]
    colours = [list(tiny_runs.COLOURS)[number % 3] for number in range(7)]
    truth = [[colour] for colour in colours] if task == "multilabel" else colours
    assert table["truth"].to_pylist() == truth
    predictions = Predictions.read(path)
    assert predictions.task == task
    if task == "multiclass":
        assert predictions.scores.sum(axis=1) == pytest.approx(np.ones(7), abs=1e-5)
    score = value_of(sums_of_samples(predictions).sum(axis=0))
    assert score == pytest.approx(result["metrics"][MAIN_METRIC[task]])


def test_a_killed_run_resumes_from_its_last_checkpoint_and_then_is_only_tested(train, tmp_path):
    train("EPIC", "--trainer.max_epochs=1")
    folder = tmp_path / "EPIC"
    (folder / "fit.json").unlink()  # as if killed after the first of three epochs
    before = train("EPIC", "--trainer.max_epochs=3")
    path = folder / "checkpoints" / "last.ckpt"
    assert read_checkpoint(str(path))["global_step"] == 9
    written = path.stat().st_mtime_ns
    after = train("EPIC", "--trainer.max_epochs=3")
    assert path.stat().st_mtime_ns == written
    assert after | {"latency_ms": before["latency_ms"]} == before


@pytest.mark.parametrize("best", ["../../other.ckpt", "file:///other.ckpt", 5])
def test_the_tested_checkpoint_is_one_of_the_run_itself(best, train, tmp_path, monkeypatch):
    checkpoints = tmp_path / "LinearProbe" / "checkpoints"
    (checkpoints / "other.ckpt").mkdir(parents=True)  # no file, so that training starts
    (checkpoints.parent / "fit.json").write_text(json.dumps({"best": best, "task": 1}))
    loaded = []
    test = L.Trainer.test
    monkeypatch.setattr(
        L.Trainer, "test", lambda *args, **kw: (loaded.append(kw["ckpt_path"]), test(*args, **kw))
    )
    assert train("LinearProbe")["task"] == "multiclass"
    assert loaded == [str(checkpoints / "best.ckpt")]
