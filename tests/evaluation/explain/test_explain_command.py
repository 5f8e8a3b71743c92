"""``epic-pl explain`` through the real command line, and its drawings in TensorBoard."""

import csv
from types import SimpleNamespace

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import tiny_runs
from epic_pl.cli import build_trained, main, run
from epic_pl.evaluation.explain.callback import PromptAttention
from epic_pl.evaluation.explain.samples import explain
from epic_pl.module import EPICModule

EVIL = "<script>alert('$x$')</script> \U0001f355"


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_vit_dir, tiny_tokenizer_dir):
    """A run of one epoch that logged what its prompts look at."""
    root = tmp_path_factory.mktemp("explain")
    table = tiny_runs.table(root / "data")
    rows = list(csv.DictReader(table.open()))
    test = {row["id"]: row for row in rows}
    test["test1"]["image"] = test["test2"]["text"] = ""
    test["test3"]["text"] = EVIL
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    config = str(tiny_runs.table_config(root / "data", tiny_vit_dir, tiny_tokenizer_dir))
    shared = ["--config", config, "--trainer.max_epochs", "2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr("sys.argv", ["epic-pl"])
        run(["fit", *shared, "--explain.every_n_epochs", "2", "--explain.samples", "2"])
    checkpoint = root / "runs" / "fit" / "version_0" / "checkpoints" / "last.ckpt"
    return SimpleNamespace(
        root=root, config=config, options=["--config", config, "--ckpt_path", str(checkpoint)]
    )


@pytest.fixture(autouse=True)
def _there(trained, monkeypatch):
    monkeypatch.chdir(trained.root)
    monkeypatch.setattr("sys.argv", ["epic-pl"])


def _told(args, capsys):
    with pytest.raises(SystemExit) as stop:
        main(args)
    return stop.value.code, capsys.readouterr()


def test_files_of_chosen_samples(trained, capsys, recwarn):
    names = "test3,test0,test1,test2"
    args = ["explain", *trained.options, "--samples", names, "--output", "chosen"]
    code, said = _told(args, capsys)
    assert code == 0, said.err
    folder = trained.root / "chosen"
    assert sorted(path.name for path in folder.iterdir()) == [
        "01_test3.png",
        "02_test0.png",
        "03_test1.png",
        "04_test2.png",
        "index.html",
    ]
    for path in folder.glob("*.png"):
        with Image.open(path) as picture:
            assert min(picture.size) > 400
    page = (folder / "index.html").read_text()
    assert "<script>" not in page
    assert "&lt;" in page
    assert page.count("<details") == 4 * 2  # two steps each
    assert "no text" in page
    assert "true: blue" in page
    assert not [each for each in recwarn if "Glyph" in str(each.message)]


def test_samples_are_spread_over_the_split(trained, capsys):
    args = ["explain", *trained.options, "--count", "2", "--split", "val", "--output", "spread"]
    assert _told(args, capsys)[0] == 0
    names = sorted(path.name for path in (trained.root / "spread").glob("*.png"))
    assert names == ["01_val0.png", "02_val2.png"]


def test_an_explanation_is_that_of_the_model_that_predicts(trained):
    module, data, path = build_trained(trained.options[:])
    data.prepare_data()
    data.setup("test")
    samples = [data.dataset("test")[row] for row in range(4)]
    whole, without_picture, without_text, evil = explain(module, data, samples)
    reference = EPICModule.load_from_checkpoint(path).eval()
    scores = reference.predict_step(data.collator(samples), 0)["probabilities"]
    for row, each in enumerate((whole, without_picture, without_text, evil)):
        best = int(scores[row].argmax())
        assert each.prediction == [data.class_names[best]]
        assert each.probability == pytest.approx(float(scores[row, best]), abs=1e-5)
        assert each.truth == [data.class_names[samples[row]["label"]]]
        assert len(each.steps) == 2
        assert [similarity.shape for similarity in each.similarities] == [(4, 4)]
        assert each.similarities[0].sum(dim=1).tolist() == pytest.approx([1] * 4, abs=1e-5)
    assert whole.words[:4] == ["[CLS]", "a", "blue", "square"]
    assert whole.words[-1] == "[SEP]"
    assert whole.steps[-1].patches.shape == (4, 4, 4)
    shares = whole.steps[-1].words.sum(dim=1)
    assert ((shares > 0) & (shares < 1)).all()
    assert without_picture.picture is None
    assert (without_picture.steps[-1].patches == 0).all()
    assert without_text.words == []
    assert "script" in evil.words  # pieces are joined again


def test_training_draws_into_tensorboard_when_it_is_due(trained):
    log = EventAccumulator(str(trained.root / "runs" / "fit" / "version_0"))
    log.Reload()
    assert log.Tags()["images"] == ["attention/val0", "attention/val2"]
    # after the second of two epochs of three steps
    assert [event.step for event in log.Images("attention/val0")] == [6]


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--samples", "test0,nobody"], "no sample nobody"),
        (["--count", "0"], "--count is 0"),
        (["--output", "data/table.csv"], "is a file"),
        (["--ckpt_path", "best"], "--ckpt_path is best"),
    ],
)
def test_bad_options_are_one_error_with_a_way_out(options, part, trained, capsys):
    code, said = _told(["explain", *trained.options, *options], capsys)
    assert code == 1
    assert part in said.err


def test_a_method_without_prompts_is_refused_before_training(trained, capsys):
    args = ["fit", "--config", trained.config, "--explain.every_n_epochs", "1"]
    code, said = _told([*args, "--model.method", "linear_probe"], capsys)
    assert code == 1
    assert "set model.method to epic" in said.err


@pytest.mark.parametrize(("options", "name"), [((-1, 4), "every_n_epochs"), ((1, 0), "samples")])
def test_options_out_of_range_are_refused(options, name):
    with pytest.raises(Exception, match=f"explain.{name}"):
        PromptAttention(*options)
