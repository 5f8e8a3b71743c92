"""The examples, and the code of docs/extend.md."""

import re
import runpy
from pathlib import Path
from types import ModuleType

import torch
import torch.nn.functional as F

import tiny_runs
from epic_pl import Classifier
from epic_pl.module import EPICModule
from tolerance import assert_same

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
    assert_same(classifier.probabilities([item]), expected)


def test_the_page_on_extensions_runs(workdir, tiny_vit_dir, tiny_tokenizer_dir):
    page = (Path(__file__).parents[1] / "docs" / "extend.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    code = "\n".join(block for block in blocks if not block.startswith("Classifier."))
    code = code.replace("pypi:dinov2-small", str(tiny_vit_dir))
    code = code.replace("pypi:all-minilm-l6-v2", str(tiny_tokenizer_dir))
    code = code.replace("L.Trainer(", "trainer = tiny_runs.trainer('.', ").replace(
        ").fit(", ")\ntrainer.fit("
    )
    tiny_runs.table(workdir / "data")
    made = {"tiny_runs": tiny_runs, "__name__": "my_package"}
    module = ModuleType("my_package")
    module.__dict__.update(made)
    exec(compile(code, "extend.md", "exec"), module.__dict__)
    assert module.trainer.global_step == 3
    model, batch = module.model, tiny_runs.batch(3)
    logits = model.eval()(batch).logits
    expected = F.multi_margin_loss(logits, batch["labels"], margin=0.5)
    assert model.compute_loss(logits, batch["labels"], batch) == expected
    assert 0 <= module.trainer.callback_metrics["val/worst_recall"] <= 1
    batch["weight"] = torch.tensor([0.0, 2.0, 1.0])
    each = F.cross_entropy(logits, batch["labels"], reduction="none")
    found = module.Weighted.compute_loss(model, logits, batch["labels"], batch)
    torch.testing.assert_close(found, (2 * each[1] + each[2]) / 3)
    assert any("classifier.0" in key for key in model.state_dict())

    encoders = model.hparams["encoders"]
    encoders["image"]["family"] = "my_package.OwnImages"
    own = module.Normed(**{**model.hparams, "encoders": encoders})
    assert own.model.widths.image == 48
