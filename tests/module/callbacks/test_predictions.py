import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch

import tiny_runs
from epic_pl.module import EPICModule
from epic_pl.module.callbacks import FeatureCache, PredictionWriter
from epic_pl.utils.errors import ConfigError, DataError


@pytest.fixture
def predict(make, tmp_path):
    """Predicts seven samples of four classes; returns the Trainer's probabilities and the file."""

    def run(task="multiclass", images=None, thresholds=None, **options):
        writer = PredictionWriter(**options)
        model = make(num_classes=4, task=task, class_names=list("abcd"))
        if thresholds:
            model.postprocessor.thresholds.copy_(torch.tensor(thresholds))
        trainer = tiny_runs.trainer(tmp_path, callbacks=[writer])
        rows = tiny_runs.samples(7)
        for row, image in zip(rows, images or [], strict=False):
            row["image_path"] = image
        loader = tiny_runs.loader(rows, 3, drop=["labels"])  # the last batch is smaller
        trainer.predict(model, loader)
        parts = trainer.predict(model, loader)  # does not add to the predictions above
        return torch.cat([part["probabilities"] for part in parts]), tmp_path / writer.output

    return run


@pytest.mark.parametrize("output", ["predictions.parquet", "predictions.csv"])
def test_every_class_is_written_in_order(predict, output):
    images = ["", *(f"{number // 2}.png" for number in range(6))]
    probabilities, path = predict(output=output, images=images)
    table = pq.read_table(path) if path.suffix == ".parquet" else pyarrow.csv.read_csv(path)
    names = [f"probability_{c}" for c in "abcd"]
    sure = ["margin", "entropy"]
    assert table.column_names == ["sample_id", "image_path", "label", *sure, *names]
    best = probabilities.sort(dim=1, descending=True).values
    assert table["margin"].to_pylist() == pytest.approx((best[:, 0] - best[:, 1]).tolist())
    entropy = torch.distributions.Categorical(probs=probabilities).entropy()
    assert table["entropy"].to_pylist() == pytest.approx(entropy.tolist())
    assert [name or "" for name in table["image_path"].to_pylist()] == images
    assert table["sample_id"].to_pylist() == [f"sample-{number}" for number in range(7)]
    assert table["label"].to_pylist() == ["abcd"[row] for row in probabilities.argmax(dim=1)]
    for index, name in enumerate("abcd"):
        written = table[f"probability_{name}"].to_pylist()
        assert written == pytest.approx(probabilities[:, index].tolist())


def test_top_k_is_sorted_and_never_longer_than_the_classes(predict):
    probabilities, path = predict(top_k=2)
    table = pq.read_table(path)
    assert table.column_names[4:] == ["probability_1", "label_2", "probability_2"]
    values, indices = probabilities.topk(2, dim=1)
    for k, label in ((1, "label"), (2, "label_2")):
        assert table[label].to_pylist() == ["abcd"[i] for i in indices[:, k - 1]]
        written = table[f"probability_{k}"].to_pylist()
        assert written == pytest.approx(values[:, k - 1].tolist())
    _, path = predict(top_k=9)
    assert len(pq.read_table(path).column_names) == 3 + 2 * 4


def test_multilabel_joins_the_labels_that_reach_their_thresholds(predict):
    tuned = [0.0, 1.1, 0.0, 0.5]
    probabilities, path = predict(task="multilabel", thresholds=tuned)
    expected = [
        "|".join(c for c, p, at in zip("abcd", row, tuned, strict=True) if p >= at)
        for row in probabilities.tolist()
    ]
    table = pq.read_table(path)
    assert table["label"].to_pylist() == expected
    margins = (probabilities - torch.tensor(tuned)).abs().min(dim=1).values
    assert table["margin"].to_pylist() == pytest.approx(margins.tolist())
    entropy = torch.distributions.Bernoulli(probs=probabilities).entropy().mean(dim=1)
    assert table["entropy"].to_pylist() == pytest.approx(entropy.tolist())


def test_other_file_types_are_refused():
    with pytest.raises(DataError, match=r"\.parquet or \.csv, .* not 'out\.xlsx'"):
        PredictionWriter("out.xlsx")


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("file/below/a.csv", "Not a directory"),
        ("folder.csv", "there is a folder of this name"),
        ("x" * 250 + ".csv", "File name too long"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_predict(
    output, reason, predict, tmp_path, monkeypatch
):
    (tmp_path / "file").touch()
    (tmp_path / "folder.csv").mkdir()
    monkeypatch.setattr(EPICModule, "predict_step", lambda *_: pytest.fail("has predicted"))
    with pytest.raises(ConfigError, match=rf"predictions\.output: .*{reason}"):
        predict(output=output)
    assert not list(tmp_path.rglob(".*"))


def test_predictions_of_another_model_or_other_options_are_not_kept(
    make, tiny_vit_dir, tiny_tokenizer_dir, cache, tmp_path, monkeypatch
):
    table = tiny_runs.table(tmp_path / "data")
    model = make(task="multiclass")

    def predicted(
        data=(), precision="32-true", level="off", dtype="float16", output="all", **options
    ):
        rows = tiny_runs.table_data(table, tiny_vit_dir, tiny_tokenizer_dir, **dict(data))
        own = [PredictionWriter(output, **options), FeatureCache(level, dtype)]
        trainer = tiny_runs.trainer(tmp_path, callbacks=own, precision=precision)
        trainer.predict(model, rows, return_predictions=False)

    def refused(**changed):
        with pytest.raises(DataError, match="other rows or image files, another model"):
            predicted(**changed)

    predicted()
    for changed in (
        {"top_k": 1},
        {"precision": "bf16-mixed"},
        {"level": "tokens"},
        {"data": {"batch_size_per_device": 3}},
        {"data": {"max_text_tokens": 9}},
        {"data": {"image_size": 16}},
        {"data": {"resize": "pad"}},
        {"data": {"clean_text": True}},
        {"data": {"alone": "text"}},
    ):
        refused(**changed)
    predicted(output="cached", level="tokens")
    refused(output="cached", level="tokens", dtype="float32")
    with monkeypatch.context() as changed:
        changed.setattr(EPICModule, "digest", lambda module: "on another device")
        refused()
    model.postprocessor.temperature += 0.1
    refused()
    model.postprocessor.temperature -= 0.1
    predicted()
