"""``epic-pl test --report`` through the real command line, against numbers from elsewhere."""

import codecs
import csv
import json
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.metrics import confusion_matrix, f1_score, precision_recall_fscore_support

import tiny_runs
from epic_pl.cli.main import main
from epic_pl.data.rows import sample_table
from epic_pl.module import EPICModule
from epic_pl.nn.heads import ClassificationHead
from epic_pl.report.scores import label
from epic_pl.report.tables import DRAWS, draw_missing
from epic_pl.report.writer import ReportWriter, rarely_missing
from epic_pl.run.epic_cli import run
from epic_pl.utils.errors import ConfigError
from epic_pl.utils.html_page import render
from tolerance import assert_same

EVIL = "<script>alert('$x$')</script>"
TEST_ROWS = 17


def _spoil(path, multilabel):
    """Rows that lack a modality, a text that is none of the page's, and labels that are wrong."""
    with tiny_runs.changed_rows(path) as rows:
        test = [row for row in rows if row["split"] == "test"]
        test[1]["text"] = test[2]["image"] = ""
        test[3]["text"] = EVIL
        for number in (3, 8):
            test[number]["label"] = "red" if test[number]["label"] == "green" else "green"
        for row in rows[1::2] if multilabel else ():
            row["label"] += "|big"


def _content(folder):
    return json.loads((folder / "report.json").read_text())


@pytest.fixture(scope="module", params=["multiclass", "multilabel"])
def reported(request, tmp_path_factory, tiny_vit_dir, tiny_tokenizer_dir):
    """A run that was trained, tested with a report and predicted."""
    root, multilabel = tmp_path_factory.mktemp("report"), request.param == "multilabel"
    _spoil(tiny_runs.table(root / "data", train=24, val=9, test=TEST_ROWS), multilabel)
    config = str(tiny_runs.table_config(root / "data", tiny_vit_dir, tiny_tokenizer_dir))
    options = ["--config", config]
    if multilabel:
        options += ["--data.label_separator", "|"]
    checkpoint = str(root / "runs/fit/version_0/checkpoints/last.ckpt")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr("sys.argv", ["epic-pl"])
        run(["fit", *options, "--model.optim.lr", "3e-3"])
        options += ["--ckpt_path", checkpoint]
        asked = ["--report", "report", "--report.mistakes", "4"]
        tested = run(["test", *options, *asked])
        run(["predict", *options])
    model = EPICModule.load_from_checkpoint(checkpoint).eval()
    predictions = pq.read_table(next(root.rglob("predictions.parquet")))
    columns = [predictions[f"probability_{name}"].to_numpy() for name in model.class_names]
    rows = csv.DictReader((root / "data" / "table.csv").open())
    rows = [row for row in rows if row["split"] == "test"]

    def binary(cells):
        return np.array([[name in cell.split("|") for name in model.class_names] for cell in cells])

    return SimpleNamespace(
        task=request.param,
        root=root,
        options=options,
        metrics={name: float(v) for name, v in tested.trainer.callback_metrics.items()},
        content=_content(root / "report"),
        page=(root / "report" / "report.html").read_text(),
        predictions=predictions,
        texts=[row["text"] for row in rows],
        truth=binary([row["label"] for row in rows]),  # 0/1 (N, C), as the next
        given=binary(predictions["label"].to_pylist()),
        probabilities=np.array(columns).T,
        model=model,
        data=tested.datamodule,
    )


@pytest.fixture(autouse=True)
def _there(reported, monkeypatch):
    monkeypatch.chdir(reported.root)
    monkeypatch.setattr("sys.argv", ["epic-pl"])


def test_all_rows_are_written_the_wrong_ones_first(reported):
    path = reported.root / "report" / "predictions.csv"
    assert path.read_bytes().startswith(codecs.BOM_UTF8)
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    at = {name: n for n, name in enumerate(reported.predictions["sample_id"].to_pylist())}
    order = [at[row["sample_id"]] for row in rows]
    assert sorted(order) == list(range(TEST_ROWS))
    truth, given, scores = reported.truth, reported.given, reported.probabilities
    right = (truth == given).all(axis=1)
    chosen = np.where(truth, scores, 1 - scores)
    losses = -np.log(chosen if reported.task == "multilabel" else np.maximum(chosen, 1 - truth))
    assert order == sorted(order, key=lambda row: (right[row], -losses[row].sum()))
    assert 0 < (~right).sum() < TEST_ROWS
    names = np.array(reported.model.class_names)
    for row, number in zip(rows, order, strict=True):
        assert row["text"] == reported.texts[number]
        assert row["image_path"] == (reported.predictions["image_path"][number].as_py() or "")
        assert row["truth"] == "|".join(names[truth[number]])
        assert row["label"] == "|".join(names[given[number]])
        if reported.task == "multilabel":
            assert row["missed"] == "|".join(names[truth[number] & ~given[number]])
            assert row["wrong"] == "|".join(names[given[number] & ~truth[number]])
    assert 'href="predictions.csv"' in reported.page


def test_metrics_and_classes_are_those_of_the_predictions_file(reported):
    truth, given, content = reported.truth, reported.given, reported.content
    assert content["samples"] == TEST_ROWS == len(truth)
    assert_same(content["metrics"], reported.metrics)
    if reported.task == "multiclass":
        hits = (truth & given).any(axis=1).mean()
        assert content["metrics"]["test/accuracy"] == pytest.approx(hits)
        expected = confusion_matrix(truth.argmax(axis=1), given.argmax(axis=1), labels=range(3))
        assert content["confusion"] == expected.tolist()
    else:
        micro = f1_score(truth, given, average="micro")
        assert content["metrics"]["test/f1_micro_tuned"] == pytest.approx(micro)
    columns = precision_recall_fscore_support(truth, given, zero_division=0)
    table = {row["class"]: row for row in content["classes"]}
    for index, name in enumerate(reported.model.class_names):
        row = [table[name][key] for key in ("precision", "recall", "f1", "support")]
        assert row == pytest.approx([column[index] for column in columns])
    scores = [row["f1"] for row in content["classes"]]
    assert scores == sorted(scores)
    told = content["headline"]
    assert told["score"] == ("accuracy" if reported.task == "multiclass" else "f1_micro_tuned")
    assert told["value"] == pytest.approx(reported.metrics[f"test/{told['score']}"])
    assert told["low"] < told["value"] < told["high"]
    ranked = content["ranking"]
    assert ranked["score"] == ("auroc" if reported.task == "multiclass" else "map")
    assert ranked["value"] == pytest.approx(reported.metrics[f"test/{ranked['score']}"])
    assert ranked["low"] < ranked["value"] < ranked["high"]
    whole = content["coverage"][-1]
    assert (whole["samples"], whole["score"]) == (TEST_ROWS, pytest.approx(told["value"]))


def test_calibration_is_that_of_the_predictions_file(reported):
    truth, probabilities = reported.truth, reported.probabilities
    if reported.task == "multiclass":
        sure, right = probabilities.max(axis=1), truth[np.arange(17), probabilities.argmax(axis=1)]
    else:
        sure, right = probabilities.ravel(), truth.ravel()
    table = reported.content["calibration"]
    which = np.minimum((sure * 15).astype(int), 14)
    assert [row["samples"] for row in table["bins"]] == np.bincount(which, minlength=15).tolist()
    for number, row in enumerate(table["bins"]):
        for name, values in (("probability", sure), ("accuracy", right)):
            mean = values[which == number].mean() if row["samples"] else None
            assert_same(row[name], mean)
    gaps = np.bincount(which, sure - right, minlength=15)
    assert_same(table["ece"], np.abs(gaps).sum() / len(sure))
    assert_same(table["ece"], reported.metrics["test/ece"])
    assert table["ece_uncalibrated"] == pytest.approx(reported.metrics["test/ece_uncalibrated"])
    assert table["temperature"] == pytest.approx(float(reported.model.postprocessor.temperature))
    assert table["bins_uncalibrated"] != table["bins"]
    chance = table["ece_by_chance"]
    assert 0 < chance["low"] < chance["mean"] < chance["high"] < 1
    assert f"{chance['mean']:.1%} on so many samples" in reported.page


def _scores(reported, logits, truth):
    """Accuracy or micro F1, and the loss, in which every logit has its say."""
    post = reported.model.postprocessor
    scaled = logits.double() / post.temperature
    if reported.task == "multiclass":
        scaled += post.bias
        right = scaled.log_softmax(dim=1)[torch.from_numpy(truth)]
        accuracy = (scaled.argmax(dim=1).numpy() == truth.argmax(axis=1)).mean()
        return {"accuracy": accuracy, "loss": float(-right.mean())}
    given = scaled.sigmoid() >= post.thresholds
    micro = f1_score(truth, given.numpy(), average="micro", zero_division=0)
    turned = torch.where(torch.from_numpy(truth), scaled, -scaled)
    return {"f1_micro_tuned": micro, "loss": float(-turned.sigmoid().log().mean())}


def _agrees(row, expected):
    assert_same({name: row[name] for name in expected}, expected)


def _by_hand(reported, image_present, text_present):
    """Logits of the test split as one batch under masks of presence."""
    dataset = reported.data.dataset("test")
    batch = reported.data.processor.collate([dataset[index] for index in range(len(dataset))])
    batch["image_present"], batch["text_present"] = image_present, text_present
    with torch.no_grad():
        return reported.model(batch).logits


def test_absence_scores_are_those_of_masked_batches(reported):
    truth = reported.truth
    image, text = torch.ones(TEST_ROWS).bool(), torch.ones(TEST_ROWS).bool()
    text[1] = image[2] = False
    nobody = torch.zeros(TEST_ROWS).bool()
    table = {row["condition"]: row for row in reported.content["absence"]}

    for condition, masks, of in (
        ("unchanged", (image, text), slice(None)),
        ("image only", (image, nobody), image.numpy()),
        ("text only", (nobody, text), text.numpy()),
    ):
        _agrees(table[condition], _scores(reported, _by_hand(reported, *masks)[of], truth[of]))
        assert table[condition]["samples"] == len(truth[of])
    for rate in (0.3, 0.5, 0.7):
        draws = []
        for draw in range(DRAWS):
            no_text, no_image = draw_missing(image & text, rate, draw)
            logits = _by_hand(reported, image & ~no_image, text & ~no_text)
            draws.append(_scores(reported, logits, truth))
        means = {name: np.mean([scores[name] for scores in draws]) for name in draws[0]}
        _agrees(table[f"{rate:.0%} missing a modality"], means | {"samples": TEST_ROWS})
    assert len({row["loss"] for row in table.values()}) == len(table) == 6


def test_mistakes_are_the_most_confident_wrong_answers(reported):
    truth, given, probabilities = reported.truth, reported.given, reported.probabilities
    wrong = (truth != given).any(axis=1)
    if reported.task == "multiclass":
        sure, name = probabilities.max(axis=1), "probability"
    else:
        right = np.where(truth, probabilities, 1 - probabilities)
        sure, name = -np.log(right).mean(axis=1), "loss"
    expected = sorted(np.flatnonzero(wrong), key=lambda row: -sure[row])[:4]
    mistakes = reported.content["mistakes"]
    assert [mistake["row"] for mistake in mistakes] == expected
    assert len(mistakes) > 1
    for mistake in mistakes:
        row = mistake["row"]
        assert mistake["sample_id"] == f"test{row}"
        assert (mistake["text"] or "") == reported.texts[row]
        assert mistake[name] == pytest.approx(sure[row], rel=1e-4)  # 1 - p is a small float32
        names = np.array(reported.model.class_names)
        assert mistake["truth"] == names[truth[row]].tolist()
        assert mistake["prediction"] == names[given[row]].tolist()


def test_the_page_holds_its_images_and_needs_no_other_file(reported):
    figures = {"coverage", "reliability"}
    figures |= {"confusion_matrix"} if reported.task == "multiclass" else set()
    folder = reported.root / "report"
    assert {path.stem for path in folder.glob("*.png")} == figures
    for path in folder.glob("*.png"):
        with Image.open(path) as image:
            assert min(image.size) > 300
    page = reported.page
    tokens = reported.data.max_text_tokens
    told = {"max_tokens": tokens, "clean": False, "prompt": "", "padded": False}
    assert reported.content["text"].items() >= told.items()
    assert f"Text: cut at {tokens} tokens</p>" in page
    assert page.count("data:image/svg+xml;base64,") == len(figures)
    shown = [mistake for mistake in reported.content["mistakes"] if mistake["row"] != 2]
    assert page.count("data:image/jpeg;base64,") == len(shown)
    assert "http" not in page
    assert "<script" not in page
    parts = ("Test report: data/table.csv", "17 samples", "Missing modalities")
    parts += ("95% interval", "macro mean", "Answer the surest 80%", "unchanged")
    assert all(part in page for part in parts)
    assert "test/" not in page.replace("test/version", "")
    told = [page.index(f"<h2>{part}") for part in ("Worst mistakes", "Scores", "Calibration")]
    assert page.index("95% interval") < told[0] < told[1] < told[2]


def test_a_mistake_shows_only_its_wrong_and_missed_labels(reported):
    mistake = reported.content["mistakes"][0]
    caption = reported.page.split("<figcaption>")[1].split("</figcaption>")[0]
    caption = caption.replace("<bdi>", "").replace("</bdi>", "")
    if reported.task == "multilabel":
        wrong = set(mistake["prediction"]) - set(mistake["truth"])
        missed = set(mistake["truth"]) - set(mistake["prediction"])
        shown = [", ".join(sorted(names)) or "none" for names in (wrong, missed)]
        assert f"wrong: <b>{shown[0]}</b>" in caption
        assert f"missed: <b>{shown[1]}</b>" in caption
    else:
        assert f"<b>{mistake['prediction'][0]}</b>" in caption
        assert f"true: <b>{mistake['truth'][0]}</b>" in caption


# these do not depend on the task
once = pytest.mark.parametrize("reported", ["multiclass"], indirect=True)


@pytest.mark.slow
@once
def test_stored_features_give_the_same_report_and_switches_leave_parts_out(
    reported, tmp_path, monkeypatch
):
    cached = ["--cache.level", "tokens", "--cache.dtype", "float32"]
    cached += ["--cache.folder", str(tmp_path / "features"), "--report.mistakes", "4"]
    run(["test", *reported.options, *cached, f"--report={tmp_path / 'cached'}"])
    content = _content(tmp_path / "cached")

    assert_same(content, reported.content)
    off = ["--report.absence", "false", "--report.mistakes", "0"]
    limited = ["--trainer.limit_test_batches", "2", "--report", str(tmp_path / "short")]
    monkeypatch.setattr("epic_pl.report.writer.rarely_missing", lambda *_: [])
    run(["test", *reported.options, *limited])
    short = _content(tmp_path / "short")
    assert short["absence"][0]["samples"] == 8
    both = torch.tensor([0, *range(3, 8)])  # row 1 lacks its text, row 2 its image
    alone = _by_hand(reported, torch.ones(TEST_ROWS).bool(), torch.zeros(TEST_ROWS).bool())[both]
    right = (alone.argmax(dim=1).numpy() == reported.truth.argmax(axis=1)[both]).mean()
    assert short["alone"]["image"]["value"] == pytest.approx(right)
    page = (tmp_path / "short" / "report.html").read_text()
    assert f"from the image alone: {right:.1%}" in page
    for room in ("writer", "figures"):
        monkeypatch.setattr(f"epic_pl.report.{room}.MAX_CLASSES", 2)
    run(["test", *reported.options, *off, *limited])
    short = _content(tmp_path / "short")
    assert (short["samples"], short["mistakes"]) == (8, [])
    assert set(reported.content) - set(short) == {"absence"}
    page = (tmp_path / "short" / "report.html").read_text()
    assert "Most confused pairs" in page
    assert not any(part in page for part in ("Worst mistakes", "Confusion matrix"))


@once
@pytest.mark.parametrize(
    ("lacking", "dropout", "rare"),
    [(1, 0.0, ["image", "text"]), (2, 0.0, ["image"]), (1, 0.1, []), (0, 0.04, ["image", "text"])],
)
def test_a_model_that_saw_few_rows_without_a_modality_has_not_learned_to_do_without_it(
    lacking, dropout, rare, reported, monkeypatch
):
    monkeypatch.setattr(ClassificationHead, "never_missing", [])  # one row trains the embedding
    monkeypatch.setitem(reported.model.hparams, "modality_dropout", dropout)
    texts = [None] * lacking + ["a text"] * (24 - lacking)
    images = ["a.png"] * 24
    table = sample_table([*map(str, range(24))], images, texts, [0] * 24)
    monkeypatch.setattr(type(reported.data), "read_split", lambda *_: SimpleNamespace(table=table))
    assert rarely_missing(reported.model, reported.data) == rare


@pytest.mark.usefixtures("reported")
@once
def test_the_page_escapes_names_and_tells_the_source_of_the_text():
    text = {"source": "premise+hypothesis", "max_tokens": 40, "clean": True}
    calibration = {"rows": 80, "ece": 0.1, "ece_uncalibrated": 0.2, "temperature": 1.0}
    calibration["ece_by_chance"] = {"mean": 0.1, "low": 0.0, "high": 0.2}
    page = render(
        "report/templates/report.html",
        **{"data": "X", "checkpoint": None, "text": text, "task": "multilabel", "samples": 1234},
        **{"metrics": {"test/auroc": None}, "calibration": calibration, "mistakes": []},
        ranking={"score": "map", "value": 0.4, "low": 0.3, "high": 0.5},
        headline={"score": "f1_micro_tuned", "value": 0.5, "low": 0.4, "high": 0.6, "chance": 0.3},
        log_loss=0.25,
        coverage=[{"coverage": 0.8, "score": 0.75}] * 20,
        classes=[{"class": "<a> & $b$", "support": 0, "f1": None, "threshold": 0.5}],
        averages=[],
        figures={"reliability": b"", "coverage": b""},
        label=label,
        enough_rows=100,
    )
    assert "Text: premise+hypothesis, cut at 40 tokens, cleaned</p>" in page
    cells = '<td class="text">&lt;a&gt; &amp; $b$</td><td>0</td><td>\N{EN DASH}</td><td>0.500</td>'
    assert cells in page
    assert "1,234 samples" in page
    assert "Micro F1 at the model&#39;s thresholds 50.0%" in page
    assert "An answer that is always the most frequent labels scores 30.0%." in page
    assert "Mean average precision 40.0% (95% interval: 30.0% to 50.0%)" in page
    assert "<td>AUROC</td><td>\N{EN DASH}</td>" in page


@once
def test_unsupported_setups_are_refused_before_the_test(reported, tmp_path, capsys):
    writer, model = ReportWriter(str(tmp_path)), reported.model
    two = SimpleNamespace(datamodule=reported.data, world_size=2)
    with pytest.raises(ConfigError, match=r"by one process, not 2.*trainer\.devices"):
        writer.setup(two, model, "test")
    own = SimpleNamespace(datamodule=None, world_size=1)
    with pytest.raises(ConfigError, match="ImageTextDataModule with EPICModule"):
        writer.setup(own, model, "test")
    writer.setup(own, model, "fit")
    with pytest.raises(ConfigError, match=r"report\.mistakes is -1"):
        ReportWriter(mistakes=-1)
    (tmp_path / "file").write_text("")
    (tmp_path / "there" / "report.html").mkdir(parents=True)
    for folder in ("file/below", "there"):
        with pytest.raises(SystemExit):
            main(["test", *reported.options, "--report", str(tmp_path / folder)])
        assert "report.folder" in capsys.readouterr().err
