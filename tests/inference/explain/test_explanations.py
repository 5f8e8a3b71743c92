"""Explanations against predictions, and their drawings."""

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

import tiny_runs
from epic_pl.inference.explain.figures import draw_explanation
from epic_pl.inference.explain.samples import (
    Explanation,
    Part,
    Step,
    _on_grid,
    explain_sample,
    predict_alone,
)
from epic_pl.module import EPICModule
from epic_pl.run.epic_cli import build_trained
from epic_pl.utils.errors import ConfigError
from tolerance import assert_same


def test_an_explanation_is_that_of_the_model_that_predicts(trained):
    options = ["--config", trained.config, "--ckpt_path", trained.checkpoint]
    module, data, path = build_trained(options)
    data.prepare_data()
    data.setup("test")
    samples = [data.dataset("test")[row] for row in range(4)]
    explanations = [explain_sample(module, data.processor, sample) for sample in samples]
    reference = EPICModule.load_from_checkpoint(path).eval()
    predicted = reference.predict_step(data.processor.collate(samples), 0)["probabilities"].detach()
    for explanation, sample, probabilities in zip(explanations, samples, predicted, strict=True):
        best = int(probabilities.argmax())
        assert explanation.prediction == [data.class_names[best]]
        assert_same(explanation.probability, probabilities[best])
        assert explanation.truth == [data.class_names[sample["label"]]]
        assert len(explanation.steps) == 2
        both = sample["image"] is not None and sample["text"] is not None
        shapes = [scores.shape for scores in explanation.similarities]
        assert shapes == ([(2, 2)] if both else [])  # nothing was exchanged
        assert len(explanation.parts) == (8 if both else 0)
        for part in explanation.parts:
            assert part.patches.shape == (4, 4)
            assert_same(part.patches.sum(), torch.tensor(1.0))
        for scores in explanation.similarities:
            assert_same(scores.sum(dim=1), torch.ones(len(scores)))
    whole, without_image, without_text, evil = explanations
    assert whole.words == ["a", "blue", "square", ",", "number", "0"]  # no special tokens
    assert whole.steps[-1].patches.shape == (2, 4, 4)
    shares = whole.steps[-1].words.sum(dim=1)
    assert ((shares > 0) & (shares < 1)).all()
    assert without_image.image is None
    assert (without_image.steps[-1].patches == 0).all()
    first, last = (whole.parts[at].words for at in (0, -1))
    assert first[0] > last[0]  # parts follow the order of the words
    assert last[-1] > first[-1]
    assert without_text.words == []
    assert "script" in evil.words  # pieces are joined again
    for unimodal in samples[1:3]:
        assert predict_alone(module, data.processor, unimodal) == {}
    alone = predict_alone(module, data.processor, samples[0])
    for name, lost in (("image", "text"), ("text", "image")):
        batch = data.processor.collate(samples[:1])
        batch |= {f"{name}_present": torch.tensor([True]), f"{lost}_present": torch.tensor([False])}
        probabilities = reference.predict_step(batch, 0)["probabilities"].detach()[0]
        likely = data.class_names[int(probabilities.argmax())]
        assert alone[name] == f"{likely} ({float(probabilities.max()):.1%})"
    assert alone["image"] != alone["text"]


def test_the_drawing_has_a_colour_bar_and_the_share_of_every_word():
    shares = torch.tensor([[0.5, 0.004], [0.25, 0.125]])
    steps = [Step(torch.full((2, 4, 4), 0.01), shares)]
    black = Image.new("RGB", (80, 80))
    figure = draw_explanation(
        Explanation("a", black, ["one", "$x$"], [], None, None, steps, [], [])
    )
    patches, words = figure.subfigs
    assert [axes.get_ylabel() for axes in patches.axes][-1] == "attention on a patch, %"
    (axes,) = words.axes
    assert [text.get_text() for text in axes.texts] == ["50", "0", "25", "12"]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["one", "$x$"]


def test_each_prompt_and_each_hub_has_a_panel():
    step = Step(torch.full((4, 2, 2), 0.1), torch.full((4, 3), 0.2))
    black, words = Image.new("RGB", (80, 80)), ["a", "red", "dog"]
    shares = [torch.eye(4)]
    found = [Part(torch.eye(3)[at % 3], torch.eye(4)) for at in range(5)]
    drawn = Explanation("a", black, words, [], None, None, [step, step], shares, found)
    patches, texts, matrices, parts = draw_explanation(drawn).subfigs
    titles = [axes.get_title("left").split(":")[0] for axes in patches.axes[:5]]
    assert titles == ["image", "prompt 1", "prompt 2", "prompt 3", "prompt 4"]
    assert [tick.get_text() for tick in texts.axes[0].get_yticklabels()] == titles[1:]
    assert matrices.axes[0].get_title("left") == "similarity before step 2"
    assert matrices.axes[0].get_ylabel() == "image prompt"
    titles = [axes.get_title("left") for axes in parts.axes]
    assert titles[:5] == ["a", "red", "dog", "a", "red"]


@pytest.mark.parametrize(("row", "column"), [(0, 3), (3, 0), (1, 2)])
def test_the_reddest_spot_of_the_drawing_is_the_patch_with_all_attention(row, column):
    image = torch.arange(16).view(4, 4)  # as an image encoder cuts it: row by row
    tokens = torch.zeros(1, 2, 3 + 16)
    tokens[0, 1, 3 + image[row, column]] = 1
    maps = _on_grid(tokens[0, :, 3:])
    assert maps.shape == (2, 4, 4)
    assert maps[1].nonzero().tolist() == [[row, column]]

    black, steps = Image.new("RGB", (80, 80)), [Step(maps[1:], torch.zeros(1, 0))]
    figure = draw_explanation(Explanation("a", black, [], [], None, None, steps, [], []), 0)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    drawn = np.asarray(canvas.buffer_rgba())[..., 0]
    axes = figure.axes[1]
    centres = [axes.transData.transform((20 * x + 9.5, 20 * y + 9.5)) for y, x in np.ndindex(4, 4)]
    # pixels count from the top, display coordinates from the bottom
    red = [drawn[round(len(drawn) - 1 - y), round(x)] for x, y in centres]
    assert divmod(int(np.argmax(red)), 4) == (row, column)


def test_a_method_without_prompts_is_refused_with_the_way_out(make):
    with pytest.raises(ConfigError, match=r"no attention to draw.*--model\.method=EPIC"):
        make(method="LinearProbe").model.record(tiny_runs.batch())
