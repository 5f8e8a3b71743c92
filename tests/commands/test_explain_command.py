"""``epic-pl explain`` through the real command line, and its drawings in TensorBoard."""

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from epic_pl.cli import build_trained
from epic_pl.evaluation.explain.callback import PromptAttention
from epic_pl.evaluation.explain.samples import explain
from epic_pl.module import EPICModule


@pytest.fixture
def options(trained):
    return ["--config", trained.config, "--ckpt_path", trained.checkpoint]


def test_files_of_chosen_samples(options, told, tmp_path, recwarn):
    names = ["test3", "test0", "test1", "test2"]
    code, _, error = told(
        "explain", *options, "--samples", ",".join(names), "--output", tmp_path / "chosen"
    )
    assert code == 0, error
    folder = tmp_path / "chosen"
    images = [f"{number:02}_{name}.png" for number, name in enumerate(names, start=1)]
    assert sorted(path.name for path in folder.iterdir()) == [*images, "index.html"]
    for path in folder.glob("*.png"):
        with Image.open(path) as image:
            assert min(image.size) > 400
    page = (folder / "index.html").read_text()
    assert "<script>" not in page
    assert "&lt;" in page
    assert page.count("<details") == 4 * 2  # two steps each
    assert "no text" in page
    assert "true: blue" in page
    assert not [each for each in recwarn if "Glyph" in str(each.message)]


def test_explaining_needs_the_file_of_a_checkpoint(trained, told, tmp_path):
    code, _, error = told("explain", "--config", trained.config, "--output", tmp_path / "none")
    assert code == 1
    assert "--ckpt_path is None" in error


def test_samples_are_spread_over_the_split(options, told, tmp_path):
    spread = ["--count", "2", "--split", "val", "--output", tmp_path]
    assert told("explain", *options, *spread)[0] == 0
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["01_val0.png", "02_val2.png"]


def test_an_explanation_is_that_of_the_model_that_predicts(options):
    module, data, path = build_trained(options)
    data.prepare_data()
    data.setup("test")
    samples = [data.dataset("test")[row] for row in range(4)]
    explained = explain(module, data, samples)
    reference = EPICModule.load_from_checkpoint(path).eval()
    scores = reference.predict_step(data.collator(samples), 0)["probabilities"]
    for row, each in enumerate(explained):
        best = int(scores[row].argmax())
        assert each.prediction == [data.class_names[best]]
        assert each.probability == pytest.approx(float(scores[row, best]), abs=1e-5)
        assert each.truth == [data.class_names[samples[row]["label"]]]
        assert len(each.steps) == 2
        assert [similarity.shape for similarity in each.similarities] == [(16, 4), (4, 4)]
        for similarity in each.similarities:
            assert similarity.sum(dim=1).tolist() == pytest.approx([1] * len(similarity), abs=1e-5)
    whole, without_image, without_text, evil = explained
    assert whole.words[:4] == ["[CLS]", "a", "blue", "square"]
    assert whole.words[-1] == "[SEP]"
    assert whole.steps[-1].patches.shape == (4, 4, 4)
    shares = whole.steps[-1].words.sum(dim=1)
    assert ((shares > 0) & (shares < 1)).all()
    assert without_image.image is None
    assert (without_image.steps[-1].patches == 0).all()
    assert without_text.words == []
    assert "script" in evil.words  # pieces are joined again


def test_training_draws_into_tensorboard_when_it_is_due(trained):
    log = EventAccumulator(str(trained.root / "runs" / "fit" / "version_0"))
    log.Reload()
    assert log.Tags()["images"] == ["attention/val0", "attention/val2"]
    # after the second of two epochs of three steps
    assert [event.step for event in log.Images("attention/val0")] == [6]


@pytest.mark.parametrize(
    ("more", "part"),
    [
        (["--samples", "test0,nobody"], "no sample nobody"),
        (["--count", "0"], '"count"'),
        (["--output", "data/table.csv"], "index.html cannot be written to data/table.csv"),
    ],
)
def test_bad_options_are_one_error_with_a_way_out(more, part, options, told):
    code, _, error = told("explain", *options, *more)
    assert code == 1
    assert part in error


def test_a_method_without_prompts_is_refused_before_training(trained, told):
    drawn = ["--explain.every_n_epochs", "1", "--model.method", "linear_probe"]
    code, _, error = told("fit", "--config", trained.config, *drawn)
    assert code == 1
    assert "set model.method to epic" in error


@pytest.mark.parametrize(("options", "name"), [((-1, 4), "every_n_epochs"), ((1, 0), "samples")])
def test_options_out_of_range_are_refused(options, name):
    with pytest.raises(Exception, match=f"explain.{name}"):
        PromptAttention(*options)
