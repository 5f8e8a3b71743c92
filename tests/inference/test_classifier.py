"""A trained run as a classifier."""

import csv
import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image

import tiny_runs
from epic_pl import Classifier
from epic_pl.run.epic_cli import run
from epic_pl.utils.assets.cached import cache_dir
from epic_pl.utils.errors import CheckpointError, ConfigError, DataError
from tolerance import assert_same

TABLE = pa.table({"a": ["b"]})


@pytest.fixture
def rows(trained):
    """Test rows as in the table; empty cells are missing modalities."""
    with (trained.root / "data" / "table.csv").open() as file:
        return [row for row in csv.DictReader(file) if row["split"] == "test"]


def _items(rows):
    return [
        {"image": (row["image"] and f"data/{row['image']}") or None, "text": row["text"] or None}
        for row in rows
    ]


@pytest.mark.parametrize("source", ["csv", "parquet"])
def test_predictions_keep_the_dialect_of_their_table_and_tell_of_cut_texts(
    source, trained, classifier, caplog, tmp_path
):
    long = "a red cat " * 60  # 64 tokens are read
    rows = {"id": ["one", "two"], "image": [None, None], "text": [long, 'a "cat"; a dog']}
    if source == "csv":
        text = "id;image;text\r\none;;" + long + '\r\ntwo;;"a ""cat""; a dog"\r\n'
        (tmp_path / "new.csv").write_text(text, encoding="utf-8-sig", newline="")
    else:
        image = Image.new("RGB", (40, 40), "red")
        image.save(tmp_path / "image.png")
        rows["image"] = [(tmp_path / "image.png").read_bytes(), None]  # as pandas writes it
        pq.write_table(pa.table(rows), tmp_path / "new.parquet")
    new = tmp_path / f"new.{source}"
    options = ["--ckpt_path", trained.checkpoint, "--data.predict_table", str(new)]
    with caplog.at_level("INFO"):
        run(["predict", "--config", trained.config, *options, f"--predictions.output={source}.csv"])
        table = classifier.predict_table(new, image="image", text="text", id="id")
    cut = "1 text of 64 tokens or more: what exceeds the max_text_tokens of training was cut."
    assert [record.message for record in caplog.records].count(cut) == 2
    (path,) = trained.root.rglob(f"{source}.csv")
    mark, delimiter = (b"\xef\xbb\xbf", ";") if source == "csv" else (b"", ",")
    assert path.read_bytes().startswith(mark + b'"sample_id"' + delimiter.encode())
    with path.open(encoding="utf-8-sig", newline="") as file:
        written = list(csv.DictReader(file, delimiter=delimiter))
    assert [row["sample_id"] for row in written] == ["one", "two"]
    assert [row["label"] for row in written] == table["label"].to_pylist()
    assert (table["image_path"][0].as_py() is None) == (source == "csv")


def test_scores_are_those_of_the_command_line(trained, classifier, rows, tmp_path):
    options = ["--ckpt_path", trained.checkpoint, "--predictions.output", "all.parquet"]
    run(["predict", "--config", trained.config, *options])
    (path,) = trained.root.rglob("all.parquet")
    expected = pq.read_table(path)

    scores = np.stack([expected[f"probability_{name}"] for name in classifier.class_names], 1)
    assert_same(classifier.probabilities(_items(rows)), scores)
    batched = classifier.probabilities(_items(rows), batch_size=2, num_workers=1, progress=True)
    assert_same(batched, scores)

    file = tmp_path / "rows.csv"
    with file.open("w", newline="") as out:
        writer = csv.DictWriter(out, ["id", "image", "text"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    named = {"image": "image", "text": "text", "id": "id", "image_root": "data"}
    arrow = pa.Table.from_pylist([{key: row[key] or None for key in row} for row in rows])
    for table in (file, arrow):
        found = classifier.predict_table(table, **named)
        assert found.column_names == expected.column_names
        assert found["sample_id"].to_pylist() == expected["sample_id"].to_pylist()
        assert found["image_path"].to_pylist() == expected["image_path"].to_pylist()
        assert found["label"].to_pylist() == expected["label"].to_pylist()
    kept = set((cache_dir() / "rows").iterdir())
    best = classifier.predict_table(arrow, **named, top_k=1)
    assert set((cache_dir() / "rows").iterdir()) == kept  # none of a table in memory
    assert best.column_names[-2:] == ["entropy", "probability_1"]


def test_one_item_many_items_and_the_best_labels(classifier, rows):
    items = _items(rows)
    image = Image.open(items[0]["image"])
    one = classifier(image=image, text=items[0]["text"])
    many = classifier(items, top_k=2)
    assert [len(each) for each in many] == [2] * len(items)
    scores = [each["score"] for each in one]
    assert_same(one[:2], many[0])
    assert len(one) == 3
    assert sum(scores) == pytest.approx(1)
    assert scores == sorted(scores)[::-1]
    assert classifier(text="a red square")[0]["label"] in classifier.class_names
    assert classifier([]) == []
    classifier.module.train()  # as a fit leaves it
    assert classifier(items, top_k=2) == many


def test_a_server_can_prepare_and_classify_in_two_steps(classifier, rows):
    items = _items(rows)
    scores = classifier.sample_probabilities([classifier.prepare(item) for item in items])
    assert_same(scores, classifier.probabilities(items))
    assert classifier.labels(scores, 2) == classifier(items, top_k=2)
    for bad, said in (({}, "The item has neither"), ({"image": b"GIF"}, "cannot be")):
        with pytest.raises(DataError, match=said):
            classifier.prepare(bad)


def test_embeddings_are_what_the_head_receives(classifier, rows):
    items = _items(rows)
    found = classifier.embed(items, batch_size=3)
    widths = classifier.module.model.widths
    assert found["image"].shape == (len(items), widths.image)
    assert found["text"].shape == (len(items), widths.text)
    missing = [[item[side] is None for item in items] for side in ("image", "text")]
    assert np.isnan(found["image"]).all(1).tolist() == missing[0]
    assert any(missing[0])
    assert np.isnan(found["text"]).any(1).tolist() == missing[1]
    assert any(missing[1])
    alone = classifier.embed(items[:1])
    assert_same(alone["image"], found["image"][:1])


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda clf: clf(), DataError, "neither image nor text"),
        (lambda clf: clf([{"text": "a"}], text="b"), ConfigError, "not both"),
        (lambda clf: clf("a.png", "a"), ConfigError, r"write clf\(image=..., text=...\)"),
        (lambda clf: clf("a.png"), DataError, r"write clf\(image=..., text=...\)"),
        (lambda clf: clf(Path("a.png")), DataError, r"write clf\(image=..., text=...\)"),
        # before the missing image is read
        (lambda clf: clf(image="a.png", top_k=0), ConfigError, "top_k must be at least 1"),
        (lambda clf: clf([{"text": "a"}], batch_size=0), ConfigError, "batch_size"),
        (
            lambda clf: clf(text="a", topk=1, img="b.png"),
            TypeError,
            r"clf\(\.\.\.\) has no img, topk; it has image, text, top_k, batch_size, num_workers",
        ),
        (lambda clf: clf(img="b.png"), TypeError, "has no img; it has image"),
        (lambda clf: clf([{"text": "a"}], topk=1), TypeError, "has no topk; it has image"),
        (lambda clf: clf.labels(np.zeros((1, 3)), 0), ConfigError, "top_k must be at least 1"),
        (lambda clf: clf.predict_table("none.csv", text="a"), DataError, "none.csv does not exist"),
        (lambda clf: clf.predict_table(TABLE, text="c"), DataError, r"no column 'c' \(text\)"),
        (lambda clf: clf.predict_table(TABLE, text="a", id="c"), DataError, r"'c' \(id\)"),
        (lambda clf: clf.predict_table(TABLE), ConfigError, r"is named \(image, text\)\."),
        (lambda clf: clf.predict_table(pa.table({"a": []}), text="a"), DataError, "no rows"),
        (
            lambda clf: clf.predict_table(TABLE, text="a", on_bad_sample="drop"),
            ConfigError,
            "on_bad_sample",
        ),
    ],
)
def test_what_cannot_be_classified_is_refused(classifier, call, error, said):
    with pytest.raises(error, match=said):
        call(classifier)


def test_rows_of_bad_images_are_counted_and_texts_cleaned_as_in_training(
    classifier, monkeypatch, tmp_path
):
    said = []
    monkeypatch.setattr("epic_pl.inference.bulk.rank_zero_info", said.append)
    words = dataclasses.replace(classifier.processor.text, clean=True)
    monkeypatch.setattr(classifier.processor, "text", words)
    texts = ["a <b>red</b> square", "a red square", "blue", None]
    images = [None, None, "none.png", None]
    table = pa.table({"text": texts, "image": pa.array(images, pa.string())})
    named = {"image": "image", "text": "text", "image_root": tmp_path, "on_bad_sample": "skip"}
    scores = classifier.predict_table(table, **named).to_pylist()
    left_out = (
        "rows with a bad image, skipped: 1 (2), rows with neither image nor text, skipped: 1 (3)"
    )
    assert said == [left_out]
    first, second = ({k: v for k, v in row.items() if k != "sample_id"} for row in scores)
    assert first == second


@pytest.mark.parametrize(
    ("index", "ids"),
    [(["x", "y"], ["x", "y"]), ([7, 3], ["7", "3"]), ([7, 7], ["0", "1"])],
)
def test_rows_of_a_data_frame_are_named_by_its_index(classifier, index, ids):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"text": ["red", "blue"], "key": ["a", "b"]}, index=index)
    assert classifier.predict_table(frame, text="text")["sample_id"].to_pylist() == ids
    named = classifier.predict_table(frame, text="text", id="key")
    assert named["sample_id"].to_pylist() == ["a", "b"]
    assert list(frame) == ["text", "key"]
    mixed = pandas.DataFrame({"text": ["red", 12]})
    with pytest.raises(DataError, match=r"column text.*astype\('string'\)"):
        classifier.predict_table(mixed, text="text")


def test_a_folder_of_images_is_predicted_as_on_the_command_line(trained, classifier, tmp_path):
    shutil.copytree("data/images", tmp_path / "new" / "in", ignore=lambda *_: ["test1.png"])
    options = ["--ckpt_path", "best", "--data.predict_table", str(tmp_path / "new")]
    run(["predict", "--config", trained.config, *options, "--predictions.output", "folder.csv"])
    (path,) = trained.root.rglob("folder.csv")
    expected = [row["label"] for row in csv.DictReader(path.open())]
    table = classifier.predict_table(tmp_path / "new")
    assert table["label"].to_pylist() == expected
    assert table["sample_id"].to_pylist() == table["image_path"].to_pylist()
    assert table["sample_id"][0].as_py() == "in/test0.png"


def test_a_model_is_found_by_its_run_or_its_file(trained, tmp_path):
    for path in ("runs/fit/version_0", "runs/fit/version_0/checkpoints", trained.checkpoint):
        assert Classifier.load(path, device="cpu").class_names == ["blue", "green", "red"]
    runs = shutil.copytree("runs", tmp_path / "[runs]")  # no pattern
    assert Classifier.load(runs, device="cpu").class_names == ["blue", "green", "red"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="no run or checkpoint"):
        Classifier.load(tmp_path / "empty")
    with pytest.raises(CheckpointError, match="no run or checkpoint"):
        Classifier.load(tmp_path / "none")


def test_a_classifier_says_what_it_is(classifier, tiny_vit_dir, tiny_tokenizer_dir):
    assert repr(classifier).splitlines() == [
        "Classifier (EPIC, multiclass): 3 classes (blue, green, red)",
        f"  image encoder {tiny_vit_dir}, text encoder {tiny_tokenizer_dir}",
    ]
    classifier.class_names = [f"c{number}" for number in range(400)]
    assert "400 classes (c0, c1, c2, c3, c4, ...)" in repr(classifier)


def test_a_model_of_another_pipeline_says_what_to_do(make):
    with pytest.raises(ConfigError, match=r"does not say how .* are prepared.*another pipeline"):
        Classifier(make(), "cpu")


def test_labels_of_a_multilabel_task_are_those_at_their_thresholds(make, classifier):
    module = make(task="multilabel", preprocessing=classifier.module.hparams["preprocessing"])
    clf = Classifier(module, "cpu")
    scores = clf.probabilities([{"text": "a"}])[0]
    module.postprocessor.thresholds.copy_(torch.tensor(scores) + torch.tensor([-0.1, 0.1, 0]))
    order = sorted((0, 2), key=lambda index: -scores[index])
    assert [each["label"] for each in clf(text="a")] == [str(index) for index in order]
    assert len(clf(text="a", top_k=3)) == 3
    assert clf.predict_table(pa.table({"t": ["a"]}), text="t")["label"].to_pylist() == ["0|2"]


def test_training_a_table_writes_a_run_that_the_command_line_reads(
    workdir, tiny_vit_dir, tiny_tokenizer_dir
):
    tiny_runs.table(workdir / "data")
    options = {
        "trainer.accelerator": "cpu",
        "trainer.max_epochs": 1,
        "model.encoders.image.name": str(tiny_vit_dir),
        "model.encoders.text": {"name": str(tiny_tokenizer_dir)},
        "model.encoders.image_size": 32,
        "cache.level": "off",
    }
    columns = {"image": "image", "text": ["text", "id"], "label": "label"}
    clf = Classifier.train("data/table.csv", **columns, options=options, device="cpu")
    written = yaml.safe_load((workdir / "runs" / "table" / "epic.yaml").read_text())
    assert written["data"]["init_args"]["text_columns"] == ["text", "id"]
    assert clf.class_names == ["blue", "green", "red"]
    assert clf(image="data/images/test0.png", text="more than it was trained on")
    run(["test", "--config", "runs/table/epic.yaml", "--ckpt_path", "last"])
    with pytest.raises(ConfigError, match=r"Did you mean 'trainer\.max_epochs'"):
        Classifier.train("data/table.csv", **columns, options={"trainer.max_epoch": 1})
    with pytest.raises(DataError, match=r"no column .kind. \(label_column\)"):
        Classifier.train("data/table.csv", label="kind")


def test_a_model_that_gives_no_numbers_is_refused(classifier):
    for name, values in classifier.module.named_buffers():
        if name.endswith(".variance"):
            values.fill_(-1)  # a file may have any number
    with pytest.raises(CheckpointError, match="gives NaN"):
        classifier(text="a red square")
