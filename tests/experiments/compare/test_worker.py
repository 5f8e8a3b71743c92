"""One run, in this process: its files, the cache level, and resuming."""

import json
import threading

import lightning as L
import numpy as np
import pyarrow.parquet as pq
import pytest
from filelock import FileLock

import tiny_runs
from epic_pl.experiments.compare import worker
from epic_pl.experiments.compare.statistics import (
    MAIN_METRIC,
    Predictions,
    sums_of_samples,
    value_of,
)
from epic_pl.experiments.compare.worker import run_one
from epic_pl.module.checkpoint_io import read_checkpoint
from epic_pl.utils.errors import ConfigError
from epic_pl.utils.files import try_read_json


@pytest.fixture
def prepare(tmp_path, config):
    def prepare(method, *options):
        folder = tmp_path / method
        folder.mkdir(exist_ok=True)
        every = ["--config", config, f"--model.method={method}", *options]
        spec = {"name": method, "seed": 0, "options": every}
        (folder / "run.json").write_text(json.dumps(spec))
        return folder

    return prepare


MULTILABEL = ["--data.label_separator=|"]
MULTILABEL += [f"--{section}.monitor=val/f1_micro" for section in ("checkpoint", "early_stopping")]


@pytest.mark.parametrize(
    ("method", "task", "level"),
    [
        ("linear_probe", "multilabel", "layers"),
        ("epic", "multiclass", "layers"),
        ("lora", "multiclass", "off"),
    ],
)
def test_a_run_writes_result_and_predictions_and_caches_what_it_can(
    method, task, level, prepare, tmp_path
):
    cached = ["--cache.level=boundary", f"--cache.folder={tmp_path}/features"]
    folder = prepare(method, *cached, *(MULTILABEL if task == "multilabel" else []))
    run_one(folder)
    result = try_read_json(folder / "result.json")
    assert (result["name"], result["cache_level"], result["epochs"]) == (method, level, 2)
    assert result["task"] == task
    assert result["trainable"] > 0
    assert {"seconds", "samples_per_s", "peak_memory_mb"} <= set(result)
    assert result["latency_ms"] > 0
    table = pq.read_table(folder / "predictions.parquet")
    assert table["sample_id"].to_pylist() == [f"test{number}" for number in range(7)]
    colours = [list(tiny_runs.COLOURS)[number % 3] for number in range(7)]
    truth = [[colour] for colour in colours] if task == "multilabel" else colours
    assert table["truth"].to_pylist() == truth
    predictions = Predictions.read(folder / "predictions.parquet")
    assert predictions.task == task
    if task == "multiclass":
        assert predictions.scores.sum(axis=1) == pytest.approx(np.ones(7), abs=1e-5)
    score = value_of(sums_of_samples(predictions).sum(axis=0))
    assert score == pytest.approx(result["metrics"][MAIN_METRIC[task]])


def test_a_killed_run_resumes_from_its_last_checkpoint_and_then_is_only_tested(prepare):
    folder = prepare("epic", "--trainer.max_epochs=1")
    run_one(folder)
    for name in ("fit.json", "result.json"):  # as if killed after the first of three epochs
        (folder / name).unlink()
    prepare("epic", "--trainer.max_epochs=3")
    run_one(folder)
    path = folder / "checkpoints" / "last.ckpt"
    last = read_checkpoint(str(path))
    assert last["global_step"] == 9

    before, written = try_read_json(folder / "result.json"), path.stat().st_mtime_ns
    (folder / "result.json").unlink()
    run_one(folder)
    assert path.stat().st_mtime_ns == written
    after = try_read_json(folder / "result.json")
    assert after | {"latency_ms": before["latency_ms"]} == before


def test_a_run_waits_for_an_earlier_process_of_the_same_run(prepare, monkeypatch):
    folder = prepare("linear_probe", "--trainer.fast_dev_run=true")
    lock = FileLock(folder / ".lock", thread_local=False)
    with lock, monkeypatch.context() as patch:
        patch.setattr(worker, "_WAIT_S", 0.1)
        with pytest.raises(ConfigError, match="Another process is training"):
            run_one(folder)
    lock.acquire()
    threading.Timer(0.3, lock.release).start()
    run_one(folder)
    assert try_read_json(folder / "result.json")["name"] == "linear_probe"


@pytest.mark.parametrize("best", ["../../other.ckpt", "/other.ckpt", "file:///other.ckpt", "", 5])
def test_the_tested_checkpoint_is_one_of_the_run_itself(best, prepare, monkeypatch):
    folder = prepare("linear_probe")
    (folder / "checkpoints").mkdir()
    (folder / "fit.json").write_text(json.dumps({"best": best, "metrics": 1, "task": 1}))
    (folder / "checkpoints" / "other.ckpt").mkdir()  # no file, so that training starts
    loaded = []
    test = L.Trainer.test
    monkeypatch.setattr(
        L.Trainer, "test", lambda *args, **kw: (loaded.append(kw["ckpt_path"]), test(*args, **kw))
    )
    run_one(folder)
    assert loaded == [str(folder / "checkpoints" / "best.ckpt")]
    assert try_read_json(folder / "result.json")["task"] == "multiclass"
