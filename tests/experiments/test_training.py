"""One run: its result and predictions, the cache level, and resuming."""

import json
from collections import Counter

import pyarrow.parquet as pq
import pytest
from PIL import Image

import tiny_runs
from epic_pl.data import dataset
from epic_pl.data.dataset import ImageTextDataset
from epic_pl.experiments import training
from epic_pl.experiments.compare.plan import Variant, add_alone, plan
from epic_pl.experiments.compare.statistics import TESTED, Predictions, bootstrap
from epic_pl.experiments.training import store_features, train_and_test
from epic_pl.module.checkpoint_io import read_checkpoint
from epic_pl.nn.encoders import TimmViTEncoder, TransformersEncoder
from epic_pl.utils.errors import DataError
from tolerance import assert_same


@pytest.fixture
def train(tmp_path, config):
    """Train a method in the folder of its name."""

    def train(method, *options):
        every = ["--config", config, f"--model.method={method}", *options]
        return train_and_test(every, tmp_path / method)

    return train


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("order", "alone"),
    [
        (("EPIC", "LateFusionMLP", "Parts"), True),
        (("Parts", "EPIC", "LateFusionMLP"), False),
        (("LateFusionMLP", "Parts", "EPIC"), True),
    ],
)
def test_each_image_is_read_and_encoded_once_in_any_order_of_methods(
    order, alone, config, tmp_path, monkeypatch
):
    tiny_runs.workers_here(monkeypatch)
    with tiny_runs.changed_rows(tmp_path / "data" / "table.csv") as rows:
        for number, row in enumerate(rows):
            row["image" if number % 4 == 1 else "text"] *= number % 4 not in (1, 2)
            if row["image"]:
                Image.new("RGB", (40, 36), (number, 9, 99)).save(tmp_path / "data" / row["image"])
    known = {side: {row[side] for row in rows if row[side]} for side in ("image", "text")}
    read: list[str] = []
    image, encoded = dataset.read_image, Counter()

    def reading(path, *options, **more):
        read.append(path.as_posix())
        return image(path, *options, **more)

    monkeypatch.setattr(dataset, "read_image", reading)
    for side, kind in (("image", TimmViTEncoder), ("text", TransformersEncoder)):
        layer = kind.run_layer

        def counted(self, index, tokens, *rest, layer=layer, side=side):
            encoded[side, index] += len(tokens)
            return layer(self, index, tokens, *rest)

        monkeypatch.setattr(kind, "run_layer", counted)
    options = ["--config", config, "--cache.level=layers", f"--cache.folder={tmp_path}/features"]
    variants = [Variant(name, name) for name in order]
    runs = plan(add_alone(variants, ",".join(order)) if alone else variants, 1, options, tmp_path)
    store_features(runs)
    assert sorted(read) == sorted(known["image"])
    # and blank ones: to find out shapes, and where a modality is left out
    for side, items in known.items():
        for layer in range(3):
            assert encoded[side, layer] == len(items) + len(runs) + alone


MULTILABEL = ["--data.label_separator=|"]


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
    cached = ["--cache.level=tokens", f"--cache.folder={tmp_path}/features"]
    result = train(method, *cached, *(MULTILABEL if task == "multilabel" else []))
    assert (result["cache_level"], result["epochs"]) == (level, 2)
    assert result["task"] == task
    assert (result["thresholds"] is None) == (task == "multiclass")
    assert result["trainable"] > 0
    assert {"seconds", "samples_per_s", "peak_memory_mb"} <= set(result)
    assert result["latency_ms"] > 0
    assert result["processor_s"] > 0
    assert 0 <= result["validation"][TESTED[task][0]] <= 1
    path = tmp_path / method / "predictions.parquet"
    table = pq.read_table(path)
    assert table["sample_id"].to_pylist() == [f"test{number}" for number in range(7)]
    colours = [list(tiny_runs.COLOURS)[number % 3] for number in range(7)]
    truth = [[colour] for colour in colours] if task == "multilabel" else colours
    assert table["truth"].to_pylist() == truth
    predictions = Predictions.read(path)
    assert predictions.task == task
    if task == "multiclass":
        assert_same(predictions.scores.sum(axis=1), [1.0] * 7)
    metrics, images = TESTED[task], [*dict.fromkeys(predictions.groups)]
    (scores,) = bootstrap([predictions], metrics, images, draws=0)
    for metric in metrics:
        assert scores[metric].item() == pytest.approx(result["metrics"][metric], nan_ok=True)


@pytest.mark.slow
def test_a_killed_run_resumes_from_its_last_checkpoint_and_then_is_only_tested(train, tmp_path):
    train("EPIC", "--trainer.max_epochs=1")  # as if killed after the first of three epochs
    before = train("EPIC", "--trainer.max_epochs=3")
    path = tmp_path / "EPIC" / "checkpoints" / "last.ckpt"
    assert read_checkpoint(str(path))["global_step"] == 9
    written = path.stat().st_mtime_ns
    after = train("EPIC", "--trainer.max_epochs=3")
    assert path.stat().st_mtime_ns == written
    for name in ("metrics", "thresholds", "checkpoint", "epochs", "trainable"):
        assert after[name] == before[name]


# the score of such a run was lost after its training
@pytest.mark.parametrize("missing", [1, 7])
def test_a_run_on_one_modality_is_timed_on_a_row_that_has_it(missing, train, tmp_path, monkeypatch):
    timed, call = [], training.Classifier.__call__
    monkeypatch.setattr(
        training.Classifier,
        "__call__",
        lambda self, items: timed.append(items[0]["image"]) or call(self, items),
    )
    with tiny_runs.changed_rows(tmp_path / "data" / "table.csv") as rows:
        for row in [row for row in rows if row["split"] == "test"][:missing]:
            row["image"] = ""
    result = train("LateFusionMLP", "--data.alone=image", "--trainer.max_epochs=1")
    assert result["latency_ms"] > 0
    assert (timed[0] is None) == (missing == 7)  # no row has it
    assert "accuracy" in result["metrics"]


@pytest.mark.parametrize("damage", ["no file", "empty row"])
def test_bad_data_ends_a_comparison_before_its_first_run(damage, config, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "in_new_process", pytest.fail)
    with tiny_runs.changed_rows(tmp_path / "data" / "table.csv") as rows:
        if damage == "empty row":
            rows[-1]["image"] = rows[-1]["text"] = ""
        else:
            rows[-1]["image"] = "images/gone.png"
    runs = plan([Variant("EPIC", "EPIC")], 1, ["--config", config], tmp_path / "out")
    with pytest.raises(DataError, match=r"test6|gone"):
        store_features(runs)
