"""Predictions with Ray Data: what an actor does, and a job that is ended and started again."""

import os
import shutil
import subprocess
import sys
from unittest.mock import MagicMock

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from epic_pl import Classifier
from epic_pl.inference.ray import Predictor, predict_parquet
from epic_pl.utils.errors import ConfigError, DataError

IDS = ["a", "b", "c"]
TEXTS = ["a red square", None, "a blue square"]


@pytest.fixture
def predictor(trained):
    return Predictor(trained.checkpoint, "id", "image", "text", None)


def batch(images):
    return pa.table({"id": IDS, "image": images, "text": TEXTS})


@pytest.mark.parametrize("kind", ["paths", "bytes", "addresses"])
def test_an_actor_predicts_as_a_classifier_does(kind, predictor, trained):
    paths = [trained.root / "data" / "images" / f"train{row}.png" for row in range(3)]
    images = [str(path) for path in paths]
    expected = Classifier.load(trained.checkpoint, device="cpu").predict_table(
        batch(images), image="image", text="text", id="id", image_root="/"
    )
    if kind == "bytes":
        images = [path.read_bytes() for path in paths]
    elif kind == "addresses":
        images = [f"memory://{path.name}" for path in paths]
        for path, address in zip(paths, images, strict=True):
            with fsspec.open(address, "wb") as file:
                file.write(path.read_bytes())
    table = predictor(batch(images))
    assert table["id"].to_pylist() == IDS
    for name in expected.column_names[2:]:
        assert table[name].equals(expected[name])


@pytest.mark.parametrize(
    ("column", "top_k", "taken"),
    [
        ("label", None, True),
        ("probability_red", None, True),
        ("label_2", 2, True),
        ("label_2", None, False),
        ("image_path", None, False),
    ],
)
def test_an_id_column_called_like_a_prediction_is_refused(column, top_k, taken, trained):
    predictor = Predictor(trained.checkpoint, column, None, "text", top_k)
    rows = pa.table({column: ["a"], "text": ["a red square"]})
    if taken:
        with pytest.raises(DataError, match=f"'{column}' is called like one of the predictions"):
            predictor(rows)
    else:
        assert predictor(rows)[column].to_pylist() == ["a"]


@pytest.mark.parametrize("image", ["missing.png", "memory://missing.png", b"no image"])
def test_a_row_that_cannot_be_used_is_named(image, predictor):
    images = [None, None, image]
    with pytest.raises(DataError, match=r"Row b: .* neither image nor text"):
        predictor(batch(images))
    with pytest.raises(DataError, match="Row c: "):
        predictor(batch(images).slice(2))


@pytest.mark.parametrize(("policy", "ids"), [("skip", ["a"]), ("absent", ["a", "c"])])
def test_rows_that_cannot_be_used_are_left_out_or_stripped(policy, ids, trained, caplog):
    predictor = Predictor(trained.checkpoint, "id", "image", "text", None, policy)
    images = [str(trained.root / "data" / "images" / "train0.png"), None, "missing.png"]
    table = predictor(batch(images))
    assert table["id"].to_pylist() == ids
    assert "Row b is left out: " in caplog.text
    assert (
        f"Row c is {'left out' if policy == 'skip' else 'stripped of its image'}: " in caplog.text
    )
    assert len(predictor(batch(images).slice(1, 1))) == 0


@pytest.fixture
def rows(tmp_path):
    pq.write_table(pa.table({"id": IDS, "text": TEXTS}), tmp_path / "rows.parquet")
    return tmp_path / "rows.parquet"


@pytest.fixture
def recorded(rows, monkeypatch):
    """The folder of a call's record of written rows, up to the first step of Ray."""
    folders = []

    class Context:
        checkpoint_config = property(fset=lambda _, folder: folders.append(folder))

    monkeypatch.setattr("ray.is_initialized", lambda: True)
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 3.0})
    monkeypatch.setattr("ray.data.read_parquet", lambda *_, **__: MagicMock(context=Context()))
    monkeypatch.setattr("ray.data.checkpoint.CheckpointConfig", lambda _, folder, **__: folder)

    def call(model, source=rows, **options):
        predict_parquet(
            model, source, rows.parent / "out", **{"id": "id", "text": "text"} | options
        )
        return folders.pop()

    return call


def test_rows_are_written_for_one_model_source_and_options(recorded, trained, rows, tmp_path):
    both = pa.table({"id": IDS, "text": TEXTS, "image": [None] * 3, "other": IDS})
    pq.write_table(both, rows)
    shutil.copy(rows, tmp_path / "others.parquet")
    moved = shutil.copy(trained.checkpoint, tmp_path / "moved.ckpt")
    same = [{}, {"batch_size": 2}, {"actors": 2}, {"model": moved}]
    others = [{"id": "other"}, {"text": "other"}, {"image": "image"}, {"top_k": 1}, {"gpus": 0.5}]
    others += [{"on_bad_sample": "skip"}, {"source": tmp_path / "others.parquet"}]
    first, *again = (recorded(**{"model": trained.checkpoint, **options}) for options in same)
    assert set(again) == {first}
    content = torch.load(moved, weights_only=True)
    content["state_dict"]["postprocessor.temperature"] += 0.1
    torch.save(content, moved)
    found = [first, recorded(moved), *(recorded(trained.checkpoint, **other) for other in others)]
    assert len(set(found)) == len(found)


def test_an_output_of_another_call_is_refused(trained, rows, tmp_path):
    (tmp_path / "out.done" / "another").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"another model.*out\.done"):
        predict_parquet(trained.checkpoint, rows, tmp_path / "out", id="id", text="text")


@pytest.mark.parametrize(
    ("columns", "kind", "said"),
    [
        ({}, ConfigError, "Name the column"),
        ({"text": "titel"}, DataError, "no column 'titel', but: id, text"),
        ({"text": "text", "on_bad_sample": "drop"}, ConfigError, "on_bad_sample"),
    ],
)
def test_wrong_arguments_are_told_before_ray_starts(columns, kind, said, rows, tmp_path):
    with pytest.raises(kind, match=said):
        predict_parquet("model", rows, tmp_path / "out", id="id", **columns)


def test_too_few_cpus_are_told_instead_of_waited_for(trained, rows, tmp_path, monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 2.0})
    with pytest.raises(ConfigError, match=r"2 CPUs.*need 3"):
        predict_parquet(trained.checkpoint, rows, tmp_path / "out", id="id", text="text")


@pytest.mark.slow
def test_a_job_that_failed_continues_with_the_rows_that_are_not_written(trained, tmp_path):
    (tmp_path / "rows").mkdir()
    table = pa.table({"id": range(64), "text": [f"a red square, number {n}" for n in range(64)]})
    broken = table.set_column(1, "text", pa.array([*table["text"].to_pylist()[:40], *[None] * 24]))
    source, output = tmp_path / "rows", tmp_path / "out"
    script = tmp_path / "job.py"
    script.write_text(
        "import sys, ray\n"
        "from epic_pl.utils import part_files\n"
        "from epic_pl.inference.ray import predict_parquet\n"
        "part_files.BATCHES = 1\n"
        "ray.init('local', num_cpus=3, include_dashboard=False, log_to_driver=False)\n"
        "predict_parquet(*sys.argv[1:], id='id', text='text', batch_size=8)\n"
    )

    def job(rows):
        pq.write_table(rows, source / "rows.parquet")
        command = [sys.executable, str(script), trained.checkpoint, str(source), str(output)]
        environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        return done.returncode, done.stderr

    code, error = job(broken)
    assert code != 0
    assert "neither image nor text" in error
    before = {path: path.read_bytes() for path in output.glob("*.parquet")}
    code, error = job(table)
    assert code == 0, error
    assert all(path.read_bytes() == content for path, content in before.items())
    written = pq.read_table(output).sort_by("id")
    assert written["id"].to_pylist() == list(range(64))
    classifier = Classifier.load(trained.checkpoint, device="cpu")
    expected = classifier.predict_table(table, text="text", id="id", progress=False)
    assert written["label"].equals(expected["label"])
