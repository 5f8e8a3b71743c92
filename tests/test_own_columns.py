"""A loss with sample weights out of a column of the table, by the command line."""

import csv

import pytest
import torch
import torch.nn.functional as F

import tiny_runs
from epic_pl import Classifier
from epic_pl.run.epic_cli import run
from tolerance import assert_same

OWN = """
import torch.nn.functional as F

from epic_pl import EPICModule


class Weighted(EPICModule):
    def compute_loss(self, logits, labels, batch):
        assert {type(note) for note in batch["note"]} <= {str}
        return (F.cross_entropy(logits, labels, reduction="none") * batch["weight"]).mean()
"""


@pytest.fixture
def config(workdir, monkeypatch, tiny_vit_dir, tiny_tokenizer_dir):
    (workdir / "own_weights.py").write_text(OWN)
    monkeypatch.syspath_prepend(workdir)
    with tiny_runs.changed_rows(tiny_runs.table(workdir / "data")) as rows:
        for number, row in enumerate(rows):
            row |= {"weight": 0.25 * (number % 7), "note": f"of {number}"}
    encoders, columns = (tiny_vit_dir, tiny_tokenizer_dir), ["weight", "note"]
    return tiny_runs.table_config(workdir / "data", *encoders, columns=columns)


@pytest.mark.parametrize(
    ("level", "command"),
    [pytest.param("off", "validate", marks=pytest.mark.slow), ("layers", "test")],
)
def test_a_weighted_loss_equals_that_of_the_models_logits(level, command, config, workdir):
    options = ["--config", str(config), "--model=own_weights.Weighted", f"--cache.level={level}"]
    options += ["--cache.dtype=float32"]
    run(["fit", *options, "--trainer.max_epochs=1"])
    (best,) = workdir.rglob("last.ckpt")
    classifier = Classifier.load(best, trust=["own_weights"], device="cpu")
    with (workdir / "data" / "table.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    split = "val" if command == "validate" else "test"
    rows = [row for row in table if row["split"] == split]
    items = [{"image": f"data/{row['image']}", "text": row["text"]} for row in rows]
    with torch.no_grad():  # the classifier's items have no columns
        logits = classifier.module(classifier.processor(items)).logits
    labels = torch.tensor([classifier.class_names.index(row["label"]) for row in rows])
    weights = torch.tensor([float(row["weight"]) for row in rows])
    expected = (F.cross_entropy(logits, labels, reduction="none") * weights).mean()
    done = run([command, *options, "--ckpt_path", str(best)]).trainer
    found = done.callback_metrics[f"{split}/loss"]
    assert_same(found, expected)
    assert len(classifier(items)) == len(rows)
    run(["predict", *options, "--ckpt_path", str(best)])
