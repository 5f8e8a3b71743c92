"""The examples, and the code of docs/extend.md."""

import re
import runpy
from pathlib import Path

import torch
import torch.nn.functional as F

import tiny_runs
from epic_pl import Classifier
from epic_pl.module import EPICModule

EXAMPLE = Path(__file__).parents[1] / "examples" / "own_pipeline.py"


def test_own_pipeline_fits_and_its_checkpoint_classifies(
    workdir, monkeypatch, tiny_vit_dir, tiny_tokenizer_dir
):
    tiny_runs.table(workdir, train=18, val=0, test=0)
    encoders = ["--image_encoder", str(tiny_vit_dir), "--text_encoder", str(tiny_tokenizer_dir)]
    arguments = [str(EXAMPLE), "table.csv", *encoders, "--interaction_layers", "2"]
    monkeypatch.setattr("sys.argv", arguments)
    made = runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert made["trainer"].global_step == 6
    assert made["model"].class_names == ["blue", "green", "red"]
    loaded = EPICModule.load_from_checkpoint("own_pipeline.ckpt").eval()
    assert not tiny_runs.differing(loaded.state_dict(), made["model"].state_dict())
    item = {"image": "images/train0.png", "text": "a blue square"}
    classifier = Classifier.load("own_pipeline.ckpt", device="cpu")
    expected = loaded.predict_step(made["processor"]([item]), 0)["probabilities"]
    torch.testing.assert_close(torch.tensor(classifier.probabilities([item])), expected.detach())


def test_the_page_on_extensions_runs(workdir, make, tiny_vit_dir, tiny_tokenizer_dir):
    page = (Path(__file__).parents[1] / "docs" / "extend.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    code = code.replace("pypi:dinov2-small", str(tiny_vit_dir))
    code = code.replace("pypi:all-minilm-l6-v2", str(tiny_tokenizer_dir))
    code = code.replace("L.Trainer(", "trainer = tiny_runs.trainer('.', ").replace(
        ").fit(", ")\ntrainer.fit("
    )
    tiny_runs.table(workdir / "data")
    made = {"tiny_runs": tiny_runs}
    exec(compile(code, "extend.md", "exec"), made)
    assert made["trainer"].global_step == 3
    smoothed, batch = made["model"], tiny_runs.batch(3)
    logits = smoothed.eval()(batch).logits
    expected = F.cross_entropy(logits, batch["labels"], label_smoothing=0.1)
    assert smoothed.compute_loss(logits, batch["labels"], batch) == expected
    assert smoothed.trainer.callback_metrics["train/loss"] > 0

    options = dict(smoothed.hparams)
    for name in ("Smoothed", "Normed", "OwnImages"):
        torch.manual_seed(0)  # of the encoder's weights, which are not loaded here
        module = made[name](**options).eval()
        tiny_runs.save(module, Path(f"{name}.ckpt"))
        torch.manual_seed(0)
        loaded = made[name].load_from_checkpoint(f"{name}.ckpt")
        assert not tiny_runs.differing(loaded.state_dict(), module.state_dict())
    assert any("classifier.0" in key for key in made["Normed"](**options).state_dict())
