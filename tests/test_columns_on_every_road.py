"""Numbers, dates and categories of a table on every road of a model that reads them."""

import csv
import json
import subprocess
import sys
from datetime import date
from types import SimpleNamespace
from unittest.mock import Mock

import lightning as L
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import tiny_runs
from epic_pl import Classifier, TableDataModule
from epic_pl.data.preprocessing import column_preprocessing
from epic_pl.data.tables.columns import RowOptions
from epic_pl.inference.ray import Predictor
from epic_pl.module.growth import TreeGrower
from epic_pl.nn.heads.trees import STAGES
from epic_pl.run.epic_cli import build, parse, run
from epic_pl.utils.errors import CheckpointError, DataError, EpicError
from tolerance import assert_differ, assert_same

COLUMNS = {
    "number_columns": ["price"],
    "date_columns": {"released": "%d.%m.%Y"},
    "category_columns": ["of brand", "in.stock"],
}
NAMES = ["price", "released", "in.stock", "of brand"]
METHODS = ("EPIC", "Trees", "Parts", "LateFusionMLP", "LinearProbe", "PMF", "LoRA", "Ensemble")


def _fill(rows) -> None:
    """Prices tell the colour of all rows; images and texts of half of them tell nothing."""
    for number, row in enumerate(rows):
        colour = list(tiny_runs.COLOURS).index(row["label"])
        row["price"] = "" if number % 11 == 5 else 10.5 * colour + number % 3
        row["of brand"] = ("St. Louis: downtown", "", "ajax")[number // 3 % 3]
        row["in.stock"] = number % 2 == 1
        row["released"] = f"{1 + number % 27:02}.{1 + number // 3 % 4:02}.{2000 + number // 6}"


@pytest.fixture(scope="module")
def priced(tmp_path_factory, tiny_vit_dir, tiny_tokenizer_dir):
    """A run of EPIC on the table with columns, its config and its classifier."""
    root = tmp_path_factory.mktemp("priced")
    with tiny_runs.changed_rows(tiny_runs.table(root / "data")) as rows:
        _fill(rows)
    encoders = tiny_vit_dir, tiny_tokenizer_dir
    config = str(tiny_runs.table_config(root / "data", *encoders, **COLUMNS))
    return tiny_runs.fit(root, config, "--model.head.network=wide", "--trainer.max_epochs=2")


def _write(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def on_priced(priced, monkeypatch):
    monkeypatch.chdir(priced.root)
    monkeypatch.setattr("sys.argv", ["epic-pl"])
    return priced


@pytest.fixture
def classifier(on_priced):
    return Classifier.load(on_priced.checkpoint, device="cpu")


def _rows(split="test"):
    with open("data/table.csv", newline="") as file:
        return [row for row in csv.DictReader(file) if row["split"] == split]


def _items(rows):
    return [
        {"image": f"data/{row['image']}", "text": row["text"], **{n: row[n] for n in NAMES}}
        for row in rows
    ]


@pytest.mark.parametrize("level", ["off", "layers"])
def test_data_module_processor_and_stored_features_give_the_same_columns(
    level, on_priced, classifier
):
    options = ["--config", on_priced.config, "--ckpt_path", on_priced.checkpoint]
    run(["predict", *options, f"--cache.level={level}", "--cache.dtype=float32"])
    (written,) = on_priced.root.rglob("predictions.parquet")
    given = pq.read_table(written).to_pylist()
    expected = classifier.probabilities(_items(_rows()))
    names = [f"probability_{name}" for name in classifier.class_names]
    found = np.array([[float(row[name]) for name in names] for row in given])
    assert_same(found, expected)
    written.unlink()


def test_an_item_has_each_column_and_each_is_read(classifier):
    (item,) = _items([row for row in _rows() if row["price"] and row["of brand"]][:1])
    assert classifier.columns == NAMES
    given = {name: item[name] for name in ("image", "text")}
    whole = classifier.probabilities([item])
    (label,) = classifier(
        **given, price=0.5, released=None, **{"of brand": None, "in.stock": True}, top_k=1
    )
    assert label["label"] in classifier.class_names
    same = {**item, "released": date(2004, 3, 2), "price": float(item["price"])}
    day = {**item, "released": "02.03.2004"}
    np.testing.assert_array_equal(classifier.probabilities([same]), classifier.probabilities([day]))
    everyday = {**item, "price": f"{float(item['price']):.2f} €".replace(".", ",")}
    assert_same(classifier.probabilities([everyday, item])[0], whole[0])
    empty = [classifier.probabilities([{**item, "price": cell}]) for cell in ("n/a", None)]
    np.testing.assert_array_equal(*empty)
    for name in NAMES:
        assert_differ(classifier.probabilities([{**item, name: None}]), whole)
    unknown = classifier.probabilities([{**item, "of brand": "of no training row"}])
    assert_differ(unknown, whole)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"price": "1.234.5"}, r"price is '1\.234\.5', but must be a finite number such as"),
        ({"price": "1,234"}, "price is '1,234', in thousands or with decimals: write 1234.5"),
        ({"price": float("inf")}, "price is inf"),
        ({"price": True}, "price is True"),
        ({"price": np.True_}, "price is "),
        ({"price": "1_000"}, "price is '1_000'"),
        ({"price": 10**400}, "price is 1000"),
        ({"of brand": np.array(["a", "b"])}, "of brand is array.*must be one number, date or text"),
        ({"released": "31.02.2000"}, r"released is '31\.02\.2000', but must be a date such as"),
        (
            {"colour": 1},
            "has the key 'colour'; known are image, text, price, released, in.stock, of brand",
        ),
    ],
)
def test_wrong_and_unknown_values_are_named(change, told, classifier):
    (item,) = _items(_rows()[:1])
    with pytest.raises(DataError, match=told):
        classifier([{**item, **change}])
    with pytest.raises(
        DataError, match=r"Item 0 lacks price, in\.stock, of brand, which the model reads"
    ):
        classifier([{"text": "a", "released": None}])
    with pytest.raises(
        TypeError, match=r"has no prise; it has .*price, released, in\.stock, of brand"
    ):
        classifier(text="a", prise=1)


def test_tables_in_bulk_take_the_columns_of_training(on_priced, classifier, tmp_path):
    table = classifier.predict_table("data/table.csv", image="image", text="text")
    rows = _rows("train") + _rows("val") + _rows()
    expected = classifier.probabilities(_items(rows))
    names = [f"probability_{name}" for name in classifier.class_names]
    found = np.array([table[name].to_numpy() for name in names]).T
    assert_same(found, expected)
    (tmp_path / "few.csv").write_text("image,text\n,a\n")
    with pytest.raises(DataError, match=r"no column 'price' \(number_columns\)"):
        classifier.predict_table(tmp_path / "few.csv", image=None, text="text")


@pytest.mark.parametrize("wrong", [-1, 10_000])
def test_trees_that_read_what_there_is_not_are_refused(wrong, on_priced, tmp_path):
    state = torch.load(on_priced.checkpoint, weights_only=True)
    state["state_dict"]["model.head.trees.inputs"][0, 0, 0] = wrong
    torch.save(state, tmp_path / "altered.ckpt")
    with pytest.raises(CheckpointError, match=r"trees\.inputs names inputs that there are not"):
        Classifier.load(tmp_path / "altered.ckpt", device="cpu")


def test_an_actor_on_a_ray_cluster_takes_the_columns_of_training(on_priced, classifier, tmp_path):
    source = {"table": "data/table.csv", "image": "image", "text": "text"}
    options = {"output": tmp_path, "top_k": None, "batch_size": 16, "on_bad_sample": "error"}
    actor = Predictor({"path": on_priced.checkpoint, "device": "cpu"}, source, **options)
    for index in (0, 1):
        actor({"index": index, "count": 2})
    expected = classifier.predict_table(**source, batch_size=16)
    assert pq.read_table(tmp_path).equals(expected)


@pytest.mark.slow
def test_saved_models_and_exports_answer_alike(classifier, tmp_path, on_priced):
    items = _items(_rows())
    expected = classifier.probabilities(items)
    classifier.save_pretrained(tmp_path / "saved")
    np.testing.assert_array_equal(
        Classifier.load(tmp_path / "saved", device="cpu").probabilities(items), expected
    )
    assert "price" in (tmp_path / "saved" / "README.md").read_text()
    pytest.importorskip("onnxruntime")
    from epic_pl.inference.export.folder import write_folder

    module = classifier.module
    write_folder(module, classifier.processor.tokenizer, tmp_path / "exported")
    exported = Classifier.load(tmp_path / "exported")
    assert_same(exported.probabilities(items), expected)
    first, labels = items[0], exported(items[:1])[0]
    everyday = first["price"].replace(".", ",") + " €" if first["price"] else "n/a"
    columns = {name: first[name] for name in classifier.columns} | {"price": everyday}
    script = [sys.executable, str(tmp_path / "exported" / "predict.py")]
    said = subprocess.run(
        [*script, first["image"], first["text"], "--columns", json.dumps(columns)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert json.loads(said)[0]["label"] == labels[0]["label"]
    assert_same(json.loads(said)[0]["score"], labels[0]["score"])
    table = ["--table", "data/table.csv", "--output", str(tmp_path / "out.csv")]
    subprocess.run([*script, *table], check=True, capture_output=True)
    with (tmp_path / "out.csv").open(newline="") as file:
        predicted = [row["predicted"] for row in csv.DictReader(file) if row["split"] == "test"]
    answers = [exported.class_names[index] for index in expected.argmax(axis=1)]
    assert predicted == answers


def test_servers_take_columns_in_json_and_in_forms(classifier, started):
    (item,) = _items([row for row in _rows() if row["price"]][:1])
    cells = {name: item[name] for name in classifier.columns}
    expected = classifier([{"text": item["text"], **cells}])[0]
    with started(classifier) as client:
        sent = client.post("/classify", json={"text": item["text"], **cells, "price": 1.5})
        assert sent.status_code == 200
        typed = {**cells, "price": float(cells["price"]), "in.stock": cells["in.stock"] == "True"}
        as_json = client.post("/classify", json={"text": item["text"], **typed})
        files = {
            name: (None, str(value)) for name, value in {"text": item["text"], **cells}.items()
        }
        form = client.post("/classify-form", files=files)
        for answer in (as_json, form):
            labels = answer.json()["labels"]
            assert [each["label"] for each in labels] == [each["label"] for each in expected]
            scores = [each["score"] for each in expected]
            assert_same([each["score"] for each in labels], scores)
        wrong = client.post("/classify", json={"text": "a", **cells, "price": "1,234"})
        assert (wrong.status_code, "price is '1,234'" in wrong.text) == (422, True)
        long = client.post("/classify", json={"text": "a", **cells, "of brand": "x" * 30_000})
        assert (long.status_code, "30,000 characters" in long.text) == (422, True)
        less = client.post("/classify", json={"text": "a"})
        assert less.status_code == 422
        assert "price: Field required" in less.text


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(
            name, marks=[] if name in ("EPIC", "Trees", "LinearProbe") else pytest.mark.slow
        )
        for name in METHODS
    ],
)
def test_each_method_trains_on_columns_with_missing_modalities(method, on_priced, tmp_path):
    if method == "LoRA":
        pytest.importorskip("peft")
    options = ["--config", on_priced.config, f"--model.method={method}", "--trainer.max_epochs=1"]
    options += ["--model.modality_dropout=0.5", f"--trainer.default_root_dir={tmp_path}"]
    options += ["--cache.level=auto"]
    trainer = run(["fit", *options]).trainer
    head = trainer.lightning_module.model.stacks[0].head
    assert head.columns > 0
    weights = [p for name, p in head.named_parameters() if "experts.columns" in name]
    assert (method in ("LinearProbe", "Trees")) == (not weights)
    if head.trees is not None:
        used = head.trees.inputs >= head.columns
        assert bool(used.any()) == (method not in ("PMF", "LoRA"))  # of frozen features
        assert head.trees.leaves.any()
    (checkpoint,) = tmp_path.rglob("last.ckpt")
    run(["test", *options, "--ckpt_path", str(checkpoint)])


def test_an_ensemble_joins_epic_the_probe_and_trees(on_priced, tmp_path, monkeypatch):
    monkeypatch.setattr("epic_pl.nn.heads.choice._ENOUGH_TO_CHOOSE", 1)  # there are four rows
    monkeypatch.setattr("epic_pl.nn.heads.choice.most_likely", lambda given, *_: given.shape[1] - 1)
    members = tmp_path / "members.yaml"
    members.write_text(
        "model: {method: {class_path: Ensemble, init_args: {members: 2, of: "
        "[{class_path: EPIC}, {class_path: LinearProbe}, {class_path: Trees}]}}}"
    )
    options = ["--config", on_priced.config, "--config", str(members)]
    options += ["--model.head.network=wide", f"--trainer.default_root_dir={tmp_path}"]
    trainer = run(["fit", *options, "--trainer.max_epochs=1"]).trainer
    epic, probe, trees = trainer.lightning_module.model.stacks
    assert [len(stack.head.trees.leaves) for stack in (epic, trees)] == [2, 1]
    assert epic.head.choice.chosen.tolist() == [11, 11]
    assert probe.head.choice.chosen.tolist() == [6]
    assert epic.head.trees.leaves.any()
    assert torch.equal(trees.head.trees.leaves[0], epic.head.trees.leaves[0])
    (checkpoint,) = tmp_path.rglob("last.ckpt")
    run(["test", *options, "--ckpt_path", str(checkpoint)])
    loaded = Classifier.load(checkpoint, device="cpu")
    items = _items(_rows())
    expected = loaded.probabilities(items)
    loaded.save_pretrained(tmp_path / "saved")
    again = Classifier.load(tmp_path / "saved", device="cpu")
    np.testing.assert_array_equal(again.probabilities(items), expected)
    again.module.model.stacks[1].head.choice.layers[6].bias.data[:, 0] += 1
    assert_differ(again.probabilities(items), expected)
    more = ["--trainer.max_epochs=2", "--ckpt_path", str(checkpoint)]
    resumed = run(["fit", *options, *more]).trainer.lightning_module.model.stacks
    assert torch.equal(resumed[2].head.trees.leaves, trees.head.trees.leaves)
    layers = [stack.head.choice.layers[6].weight for stack in (resumed[1], probe)]
    assert_differ(*layers)


@pytest.fixture(scope="module")
def of_many_classes(tmp_path_factory, tiny_vit_dir, tiny_tokenizer_dir):
    """The config of a table of 120 classes, which its price and brand tell."""
    root = tmp_path_factory.mktemp("many")
    tiny_runs.table(root / "data", train=480, val=120, test=120)
    with tiny_runs.changed_rows(root / "data" / "table.csv") as rows:
        for number, row in enumerate(rows):
            row["image"] = f"images/train{number % 3}.png"
            row["label"] = f"class {number % 120:03}"
            row["price"], row["brand"] = number % 12 + 0.5, f"brand {number % 120 // 12}"
    given = {"number_columns": ["price"], "category_columns": ["brand"]}
    return str(tiny_runs.table_config(root / "data", tiny_vit_dir, tiny_tokenizer_dir, **given))


@pytest.mark.parametrize("method", ["EPIC", "Trees"])
def test_a_table_of_120_classes_trains_and_answers(
    method, of_many_classes, started, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    options = ["--config", of_many_classes, f"--model.method={method}", "--trainer.max_epochs=1"]
    options += ["--model.head.network=wide", f"--trainer.default_root_dir={tmp_path}"]
    fitted = run(["fit", *options]).trainer
    trees = fitted.lightning_module.model.head.trees
    assert trees.inputs.shape[0] == 1
    assert trees.leaves.any()
    (checkpoint,) = tmp_path.rglob("last.ckpt")
    options += ["--ckpt_path", str(checkpoint)]
    run(["validate", *options])
    tested = run(["test", *options]).trainer
    if method == "Trees":
        assert float(tested.callback_metrics["test/accuracy"]) > 0.9
    run(["predict", *options])
    (written,) = tmp_path.rglob("predictions.parquet")
    given = pq.read_table(written).to_pylist()
    loaded = Classifier.load(checkpoint, device="cpu")
    first = {"image": None, "text": "a blue square, number 0", "price": 0.5, "brand": "brand 0"}
    assert len(loaded.class_names) == 120
    scores = loaded.probabilities([first])[0]
    assert np.isfinite(scores).all()
    assert len(given) == 120
    with started(loaded) as client:
        answer = client.post("/classify", json={**first, "top_k": 120}).json()["labels"]
    assert_same([each["score"] for each in answer], sorted(scores, reverse=True))


@pytest.mark.slow
def test_120_classes_are_compared_and_exported(of_many_classes, tmp_path):
    pytest.importorskip("onnxruntime")
    from epic_pl.experiments.training import train_and_test
    from epic_pl.inference.export.folder import write_folder

    options = ["--config", of_many_classes, "--model.method=EPIC", "--model.head.network=wide"]
    options += ["--trainer.max_epochs=1", "--seed_everything=0"]
    assert train_and_test(options, tmp_path)["latency_ms"] > 0
    (checkpoint,) = tmp_path.rglob("last.ckpt")
    loaded = Classifier.load(checkpoint, device="cpu")
    write_folder(loaded.module, loaded.processor.tokenizer, tmp_path / "exported")
    items = [{"image": None, "text": "a", "price": n + 0.5, "brand": "brand 1"} for n in range(3)]
    exported = Classifier.load(tmp_path / "exported")
    assert_same(exported.probabilities(items), loaded.probabilities(items))


@pytest.mark.parametrize("method", ["EPIC", "LoRA"])  # with frozen features, and without
def test_other_ranks_hear_of_each_batch_and_stage_while_trees_grow(method, on_priced):
    if method == "LoRA":
        pytest.importorskip("peft")
    options = ["--config", on_priced.config, f"--model.method={method}"]
    first, data, trainer = build([*options, "--model.head.network=wide"])
    second = build([*options, "--model.head.network=wide"]).module
    data.prepare_data()
    data.setup("fit")
    sent = []

    def rank(broadcast, is_first):
        strategy = Mock(batch_to_device=lambda batch: batch, broadcast=broadcast)
        return SimpleNamespace(
            strategy=strategy,
            datamodule=data,
            ckpt_path=None,
            is_global_zero=is_first,
            progress_bar_callback=None,
            precision_plugin=trainer.precision_plugin,
        )

    def send(given):
        sent.append(given)
        return given

    TreeGrower().on_fit_start(rank(send, True), first)
    batches = len(data.training_pass(20_000))
    assert batches > 1
    assert [given is None for given in sent] == [*[True] * (batches + STAGES), False]
    heard = iter(sent)
    TreeGrower().on_fit_start(rank(lambda _: next(heard), False), second)
    assert next(heard, "all heard") == "all heard"
    for name, buffer in second.model.head.trees.named_buffers():
        assert torch.equal(buffer, first.model.head.trees.get_buffer(name))
    assert second.model.head.trees.leaves.any()


def test_a_compared_run_is_timed_on_a_row_with_its_columns(on_priced, tmp_path):
    from epic_pl.experiments.training import train_and_test

    options = ["--config", on_priced.config, "--model.method=LateFusionMLP"]
    options += ["--trainer.max_epochs=1", "--seed_everything=0", "--cache.level=auto"]
    result = train_and_test(options, tmp_path)
    assert result["latency_ms"] > 0


@pytest.mark.slow
def test_samples_with_columns_are_explained(on_priced, classifier, tmp_path):
    from epic_pl.cli.main import main
    from epic_pl.inference.explain.samples import predict_alone

    more = ["--output", str(tmp_path / "page"), "--count", "2"]
    with pytest.raises(SystemExit) as stop:
        main(["explain", on_priced.checkpoint, "--config", on_priced.config, *more])
    assert stop.value.code in (0, None)
    assert list((tmp_path / "page").iterdir())
    (first,) = _items(_rows()[:1])
    answers = [
        predict_alone(classifier.module, classifier.processor, classifier.prepare(item))
        for item in (first, {**first, "price": 1000.0, "of brand": None})
    ]
    assert answers[0] == answers[1]  # each is of one modality alone
    assert (
        "points that the first label loses without: "
        in (tmp_path / "page" / "index.html").read_text()
    )


def test_a_source_adds_what_the_answer_loses_without_it(classifier):
    from epic_pl.inference.explain.samples import added_by_source

    (item,) = _items([row for row in _rows() if row["price"] and row["of brand"]][:1])
    whole = classifier.probabilities([item])[0]
    label = whole.argmax()
    added = added_by_source(classifier.module, classifier.processor, classifier.prepare(item))
    assert added.keys() == {"image", "text", *NAMES}
    assert [*added.values()] == sorted(added.values(), reverse=True)
    for name, value in added.items():
        without = classifier.probabilities([{**item, name: None}])[0, label]
        assert_same(value, float(whole[label] - without))
    lacking = classifier.prepare({**item, "image": None, "price": None})
    added = added_by_source(classifier.module, classifier.processor, lacking)
    assert added.keys() == {*NAMES} - {"price"}


def test_columns_train_in_mixed_precision(on_priced, tmp_path):
    options = ["--config", on_priced.config, "--config", "mixed_precision.yaml"]
    options += ["--trainer.max_epochs=1", f"--trainer.default_root_dir={tmp_path}"]
    trainer = run(["fit", *options]).trainer
    assert "mixed" in trainer.precision
    assert trainer.lightning_module.model.head.columns > 0


@pytest.mark.slow
@pytest.mark.parametrize("method", ["EPIC", "Trees"])
def test_columns_train_in_two_processes(method, on_priced, tmp_path):
    options = [
        "--config",
        on_priced.config,
        f"--model.method={method}",
        "--trainer.devices=2",
        "--trainer.strategy=ddp",
    ]
    options += ["--trainer.max_epochs=1", f"--trainer.default_root_dir={tmp_path}"]
    command = [sys.executable, "-m", "epic_pl", "fit", *options]
    subprocess.run(command, check=True, capture_output=True)
    (checkpoint,) = tmp_path.rglob("last.ckpt")
    assert Classifier.load(checkpoint, device="cpu").columns == NAMES


def test_columns_alone_learn_what_only_they_tell(on_priced, tmp_path):
    options = ["--config", on_priced.config, "--model.method=LateFusionMLP", "--data.alone=columns"]
    options += ["--trainer.max_epochs=30", "--model.optim.lr=0.05", "--model.head.network=wide"]
    options += ["--trainer.limit_val_batches=0", "--trainer.enable_progress_bar=false"]
    trainer = run(["fit", *options, f"--trainer.default_root_dir={tmp_path}"]).trainer
    assert float(trainer.callback_metrics["train/accuracy"]) > 0.8
    data = trainer.datamodule
    batch = next(iter(data.val_dataloader()))
    assert not batch["image_present"].any()
    assert not batch["text_present"].any()
    assert batch["columns"].any()


def test_without_columns_nothing_of_the_model_changes(make):
    module, other = make(), make(preprocessing=None)
    assert module.hparams["head"]["columns"] == 0
    assert not any("columns" in name for name in module.state_dict())
    assert module.state_dict().keys() == other.state_dict().keys()


def test_a_model_reads_other_tables_as_its_own(on_priced, classifier, tmp_path):
    """Quantiles and values are those of training, whatever rows are predicted."""
    _write(tmp_path / "other.csv", [row | {"split": "train"} for row in _rows()])
    options = ["--config", on_priced.config, "--ckpt_path", on_priced.checkpoint]
    options += [f"--data.predict_table={tmp_path / 'other.csv'}", "--data.image_root=data"]
    options += [f"--trainer.default_root_dir={tmp_path}"]
    for gone in ([], ["--data.table=no_such.csv"]):
        data = run(["predict", *options, *gone]).trainer.datamodule
        assert data.column_preprocessing == classifier.processor.columns


def test_a_trainer_of_ones_own_reads_other_tables_as_the_model_does(
    classifier, tmp_path, tiny_vit_dir, tiny_tokenizer_dir
):
    rows = [
        row | {"split": "test" if number < 7 else "train"}
        for number, row in enumerate(_rows("train"))
    ]
    _write(tmp_path / "other.csv", rows)
    encoders = {"image_encoder": str(tiny_vit_dir), "text_encoder": str(tiny_tokenizer_dir)}
    table = {"table": str(tmp_path / "other.csv"), "split_column": "split", "image_root": "data"}
    data = TableDataModule(**table, **encoders, **COLUMNS, val_size=0)
    assert data.column_preprocessing != classifier.processor.columns
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    made = trainer.predict(classifier.module, datamodule=data)
    found = torch.cat([part["probabilities"] for part in made]).numpy()
    assert_same(found, classifier.probabilities(_items(rows[:7])))


def test_a_new_category_starts_beside_known_weights(on_priced, classifier, tmp_path):
    text = (on_priced.root / "data" / "table.csv").read_text().replace(",ajax,", ",brand new,")
    (tmp_path / "new.csv").write_text(text)
    options = ["--config", on_priced.config, f"--data.table={tmp_path / 'new.csv'}"]
    options += ["--data.image_root=data", "--model.head.network=wide", "--trainer.max_epochs=1"]
    options += [
        f"--trainer.default_root_dir={tmp_path}",
        f"--model.warm_start={on_priced.checkpoint}",
    ]
    module, _, _ = parse(["fit", *options]).build()
    old = classifier.processor.columns.features
    kept = column_preprocessing(module.hparams["preprocessing"])
    new = [tuple(each) for each in kept.features]
    assert ("of brand", "brand new") in new
    assert ("of brand", "ajax") in old
    weight = "head.experts.columns.weight"
    before = classifier.module.model.state_dict()[weight]
    after = module.model.state_dict()[weight]
    for at, name in enumerate(new):
        expected = before[:, old.index(name)] if name in old else torch.zeros(len(before))
        torch.testing.assert_close(after[:, at], expected)
    with pytest.raises(CheckpointError, match="reads other columns"):
        module.checked_state(torch.load(on_priced.checkpoint), False, "it")


def test_a_model_without_columns_starts_from_one_with_them(on_priced, classifier, tmp_path):
    options = ["--config", on_priced.config, *(f"--data.{kind}=null" for kind in COLUMNS)]
    options += ["--model.head.network=wide", f"--model.warm_start={on_priced.checkpoint}"]
    module, _, _ = parse(["fit", *options]).build()
    before, after = classifier.module.state_dict(), module.state_dict()
    weight = "model.head.classifier.linear.weight"
    others = after[weight].shape[1]
    assert others == before[weight].shape[1] - classifier.processor.columns.width
    torch.testing.assert_close(after[weight], before[weight][:, :others])


def test_a_run_resumes_with_the_trees_that_it_had(on_priced, tmp_path, monkeypatch):
    options = ["--config", on_priced.config, "--model.head.network=wide"]
    options += [f"--trainer.default_root_dir={tmp_path}", "--trainer.max_epochs=3"]
    grown = Mock(side_effect=AssertionError("trees of a resumed run are those that it had"))
    monkeypatch.setattr("epic_pl.module.growth.training_rows", grown)
    resumed = run(["fit", *options, "--ckpt_path", on_priced.checkpoint]).trainer
    assert resumed.current_epoch == 3


def test_a_hostile_table_trains(on_priced, tmp_path, tiny_vit_dir, tiny_tokenizer_dir):
    """A value of its own in each row, one value in all, huge numbers, and nothing at all."""
    with tiny_runs.changed_rows(tiny_runs.table(tmp_path / "data")) as rows:
        for number, row in enumerate(rows):
            row |= {"every": f"value {number}", "one": 7, "none": "", "huge": 1e308 * (number % 2)}
    named = {"number_columns": ["one", "huge", "none"], "category_columns": ["every"]}
    config = tiny_runs.table_config(tmp_path / "data", tiny_vit_dir, tiny_tokenizer_dir, **named)
    options = ["--config", str(config), "--model.head.network=wide", "--trainer.max_epochs=1"]
    trainer = run(["fit", *options, f"--trainer.default_root_dir={tmp_path}"]).trainer
    data = trainer.datamodule
    assert data.column_preprocessing.categories == {"every": []}
    batch = next(iter(data.train_dataloader()))
    assert torch.isfinite(batch["columns"]).all()
    assert all(torch.isfinite(p).all() for p in trainer.lightning_module.parameters())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"number_columns": ["label"]}, "have a 'label' already: rename the column"),
        ({"category_columns": ["self"]}, "have a 'self' already"),
        ({"date_columns": ["top_k"]}, "have a 'top_k' already"),
        ({"date_columns": {"a": "%d.%m.%Y %d"}}, r"a: %d\.%m\.%Y %d is no format such as"),
        ({"number_columns": ["a"], "category_columns": ["a"]}, "'a' is read twice"),
        ({"number_columns": ["a year"], "date_columns": ["a"]}, "'a year' is read twice"),
    ],
)
def test_a_column_is_read_once_under_a_name_of_its_own(options, told):
    with pytest.raises(EpicError, match=told):
        RowOptions(**options)


@pytest.mark.slow
def test_a_report_has_the_importance_of_each_column(on_priced, tmp_path):
    options = ["--config", on_priced.config, "--model.method=LateFusionMLP", "--data.alone=columns"]
    options += ["--trainer.max_epochs=60", "--model.optim.lr=0.02", "--model.head.network=wide"]
    options += [f"--trainer.default_root_dir={tmp_path}"]
    run(["fit", *options])
    (checkpoint,) = tmp_path.rglob("last.ckpt")
    report = ["--report", str(tmp_path / "report")]
    run(["test", *options, "--ckpt_path", str(checkpoint), *report])
    content = json.loads((tmp_path / "report" / "report.json").read_text())
    first, *others = content["columns"]["importance"]
    assert first["column"] == "price"
    assert {row["column"] for row in others} == {*NAMES} - {"price"}
    assert 0.2 < first["importance"] <= first["high"]
    assert first["low"] > max(row["importance"] for row in others)
    alone, whole = content["columns"]["alone"], content["headline"]
    assert alone["value"] == pytest.approx(whole["value"])  # it has learned nothing else
    page = (tmp_path / "report" / "report.html").read_text()
    assert "Columns</h2>" in page
    assert "image and columns" in page


def test_the_page_has_an_input_of_each_kind(classifier):
    pytest.importorskip("gradio")
    from epic_pl.inference.serving.page import answer, build_page

    kinds = {
        block.label: type(block).__name__
        for block in build_page(classifier, "colours").blocks.values()
        if getattr(block, "label", None) in classifier.columns
    }
    choices = {"in.stock": "Dropdown", "of brand": "Dropdown"}
    assert kinds == {"price": "Number", "released": "Textbox"} | choices
    cells = {"price": 0.5, "released": "", "of brand": None, "in.stock": "True"}
    found = answer(classifier, None, "a blue square", cells).labels["Text alone"]
    expected = classifier([{"text": "a blue square", **cells}], top_k=1)[0][0]
    assert_same(found[expected["label"]], expected["score"])
    with pytest.raises(DataError, match="price is 'a lot'"):
        answer(classifier, None, "a", {**cells, "price": "a lot"})


def test_compare_also_trains_on_the_columns_alone(on_priced):
    from epic_pl.experiments.compare.plan import add_alone, choose

    variants = add_alone(choose("EPIC", []), "EPIC", ["--config", on_priced.config])
    assert [each.name for each in variants] == ["EPIC", "EPIC-text", "EPIC-image", "EPIC-columns"]


def test_trees_alone_need_a_data_module(make, tmp_path):
    trainer = tiny_runs.trainer(tmp_path, max_epochs=1)
    with pytest.raises(EpicError, match="Trees grow from the rows of a DataModule"):
        trainer.fit(make(method="Trees"), tiny_runs.loader(tiny_runs.samples()))


def test_trees_see_drawn_rows_in_their_order_without_augmentation(on_priced):
    given = ["--config", on_priced.config, "--ckpt_path", on_priced.checkpoint]
    data = run(["validate", *given]).trainer.datamodule
    dataset = data.dataset("train")
    first, again, all_rows, bare = (
        list(data.training_pass(most, whole))
        for most, whole in ((5, True), (5, True), (10_000, True), (5, False))
    )
    assert all(map(torch.equal, *([b["pixel_values"] for b in each] for each in (first, again))))
    columns = torch.cat([batch["columns"] for batch in first])
    whole_labels = torch.cat([batch["labels"] for batch in all_rows])
    assert_same(whole_labels, torch.tensor([dataset.row(i)["label"] for i in range(len(dataset))]))
    every = torch.cat([batch["columns"] for batch in all_rows])
    places = [every.eq(row).all(dim=1).nonzero()[0].item() for row in columns]
    assert len(columns) == 5
    assert places == sorted(places)
    assert places != list(range(5))
    assert_same(columns, torch.cat([batch["columns"] for batch in bare]))
    assert not any(batch["image_present"].any() or batch["text_present"].any() for batch in bare)
