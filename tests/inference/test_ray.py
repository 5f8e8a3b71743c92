"""Predictions on a Ray cluster; what an actor writes is tested in test_inference_bulk.py."""

import os
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from epic_pl import Classifier
from epic_pl.inference.ray import predict_on_ray
from epic_pl.utils.errors import ConfigError, DataError


@pytest.mark.parametrize(
    ("columns", "kind", "said"),
    [
        ({}, ConfigError, "No column"),
        ({"text": "titel"}, DataError, "no column 'titel'"),
        ({"text": "text", "on_bad_sample": "drop"}, ConfigError, "on_bad_sample"),
    ],
)
def test_wrong_arguments_are_told_before_ray_starts(columns, kind, said, trained, monkeypatch):
    monkeypatch.setattr("ray.data.from_items", lambda *_, **__: pytest.fail("has started"))
    with pytest.raises(kind, match=said):
        predict_on_ray("model", "data/table.csv", "out", **columns)


@pytest.mark.slow
def test_an_actor_writes_all_rows_of_a_table(trained, tmp_path):
    script = tmp_path / "job.py"
    script.write_text(
        "import sys, ray\n"
        "from epic_pl.inference.ray import predict_on_ray\n"
        "ray.init('local', num_cpus=2, include_dashboard=False, log_to_driver=False)\n"
        "columns = {'image': 'image', 'text': 'text', 'id': 'id'}\n"
        "predict_on_ray(*sys.argv[1:], batch_size=1, **columns)\n"
    )
    output = tmp_path / "out"
    command = [sys.executable, str(script), trained.checkpoint, "data/table.csv", str(output)]
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0"}
    subprocess.run(command, env=environment, check=True)
    classifier = Classifier.load(trained.checkpoint, device="cpu")
    expected = classifier.predict_table(
        "data/table.csv", image="image", text="text", id="id", batch_size=1
    )
    assert pq.read_table(output).equals(expected)
