"""``benchmarks/evidence.py`` and its controls on fabricated scenes and tiny encoders."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_models import batch, make

import ablations
import cca
import evidence
import evidence_tables
import learning_curve
import logistic
from epic_pl.data.datasets import scenes
from epic_pl.nn.heads import HeadConfig
from epic_pl.nn.methods import METHODS


@pytest.fixture
def options(on_named, monkeypatch):
    monkeypatch.setattr(scenes, "_ROWS", {"val": 24, "test": 24})
    monkeypatch.setattr(scenes, "_CHUNK", 16)
    return [*on_named, "--data.rows=48"]


@pytest.mark.slow
def test_a_task_is_compared_and_its_opening_noted_once(options, tmp_path, monkeypatch):
    (tmp_path / "ledger.md").write_text("# Ledger\n")
    monkeypatch.setattr(evidence, "clean_commit", lambda: ("abc", "sources"))
    arguments = ["evidence.py", "--tasks=free", "--methods=epic,no_prompts", "--seeds=1"]
    arguments += ["--tune=1", f"--records={tmp_path}", *options]
    monkeypatch.setattr("sys.argv", arguments)
    for _ in range(2):  # what is finished is not repeated
        assert evidence.main() == 0
    shutil.rmtree(tmp_path / "runs/evidence/sources/free/tune")  # the records have what was chosen
    assert evidence.main() == 0
    assert not (tmp_path / "runs/evidence/sources/free/tune").exists()
    arguments[1] = "--tasks=free_objects"
    assert evidence.main() == 0
    chosen = json.loads((tmp_path / "evidence/chosen/free.json").read_text())
    assert set(chosen["chosen"]) == {"epic", "no_prompts"}
    assert not [*(tmp_path / "runs/evidence/sources").glob("*/tune")]  # not on other scenes
    lines = (tmp_path / "ledger.md").read_text().splitlines()
    assert len(lines) == 3
    assert "| free_objects |" in lines[2]
    assert " | abc | free | `python benchmarks/evidence.py --tasks=free" in lines[1]
    assert "opened" not in lines[1]
    for name in ("majority", "epic", "no_prompts", "cca", "logistic"):
        assert f"{name} " in lines[1].split("accuracy: ")[1]
    rows = json.loads((tmp_path / "evidence/free.json").read_text())
    found = {row["method"]: row for row in rows if row["metric"] == "accuracy"}
    assert 0 < found["cca"]["p_value"] <= 1
    assert any(row["metric"] == "accuracy_relation" for row in rows if row["method"] == "cca")
    shares = {row["method"]: row["mean"] for row in rows if row["metric"].endswith("_relations")}
    assert set(shares) == {"epic", "no_prompts", "cca", "logistic"}
    relations = {row["method"]: row["mean"] for row in rows if row["metric"].endswith("_relation")}
    # of two that are each other's reverse, one is true: who has half of them right may have none
    for name, right in relations.items():
        assert max(0, 2 * right - 1) - 1e-6 <= shares[name] <= right + 1e-6
    assert "| cca |" in (tmp_path / "evidence/free.md").read_text()
    printed = evidence_tables.table(rows)
    assert [line.split("|")[1].strip() for line in printed[2:]] == [
        f"`{name}`" for name in ("majority", "epic", "no_prompts", "cca", "logistic")
    ]
    assert all(line.count("|") == printed[0].count("|") for line in printed)
    assert printed[0].endswith("| both_relations | conjunction | existence | relation |")
    page = tmp_path / "page.md"
    arguments = ["evidence_tables.py", f"--evidence={tmp_path}/evidence", f"--to={page}"]
    monkeypatch.setattr("sys.argv", arguments)
    evidence_tables.main()
    assert page.read_text().index("\n## free\n") < page.read_text().index("## free_objects")
    assert page.read_text().count("Better than `epic`: ") == 2
    assert page.read_text().count(" at commit abc.") == 2
    image = tmp_path / "images/curve.png"
    arguments = ["learning_curve.py", f"--evidence={tmp_path}/evidence", f"--to={image}"]
    monkeypatch.setattr("sys.argv", arguments)
    learning_curve.main()
    assert image.read_bytes().startswith(b"\x89PNG")


def test_an_opening_that_was_not_finished_stays_in_the_ledger(options, tmp_path, monkeypatch):
    (tmp_path / "ledger.md").write_text("# Ledger\n")
    monkeypatch.setattr(evidence, "clean_commit", lambda: ("abc", "sources"))

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(evidence, "compare", interrupted)
    monkeypatch.setattr("sys.argv", ["evidence.py", "--tasks=styles", f"--records={tmp_path}"])
    assert evidence.main() == 130
    assert "styles" in (line := (tmp_path / "ledger.md").read_text().splitlines()[1])
    assert "opened, not finished" in line


def test_cca_finds_the_match_of_two_modalities_and_the_class_of_both():
    rng = np.random.default_rng(0)
    hidden, other = rng.normal(size=(2, 600, 4))
    labels = rng.integers(2, size=600)
    maps = rng.normal(size=(2, 4, 12))
    image = hidden @ maps[0] + 0.3 * rng.normal(size=(600, 12))
    text = np.where(labels[:, None], hidden, other) @ maps[1]
    rows = cca.Rows(image, text, labels, [], [])
    train, val, test = (
        cca.Rows(image[part], text[part], labels[part], [], [])
        for part in (slice(300), slice(300, 450), slice(450, 600))
    )
    model = cca.with_threshold(cca.fit(train, 0.01, 2), val)
    assert cca.accuracy(model, test) > 0.85
    # with three classes both modalities are related to the labels
    classes = (image[:, :3] + text[:, :3]).argmax(axis=1)
    train, test = (
        rows._replace(image=image[part], text=text[part], labels=classes[part])
        for part in (slice(450), slice(450, 600))
    )
    assert cca.accuracy(cca.fit(train, 0.01, 3), test) > 0.7


def test_the_threshold_is_the_best_one():
    rows = cca.Rows(*(np.ones((4, 1)),) * 2, np.array([0, 1, 0, 1]), [], [])

    class Fake(cca.Model):
        def scores(self, _):
            return np.array([[0, 0.1], [0, 0.3], [0, 0.2], [0, 0.4]])

    assert cca.with_threshold(Fake((), 0.0), rows).threshold == pytest.approx(0.25)


@pytest.mark.parametrize("several", [False, True])
def test_logistic_regression_chooses_a_strength_and_knows_the_classes(several):
    rng = np.random.default_rng(0)
    image, text = rng.normal(size=(2, 240, 5))
    labels = (image[:, 0] + text[:, 0] > 0).astype(int) + 2 * (image[:, 1] > 0)
    if several:  # two labels a row
        labels = np.stack([labels % 2, labels // 2], axis=1)
    rows = cca.Rows(image, text, labels, ["id"] * 240, [])
    train, test = (
        rows._replace(image=image[part], text=text[part], labels=labels[part], ids=rows.ids[part])
        for part in (slice(160), slice(160, 240))
    )
    model, strength = logistic.fit(train)
    assert strength in logistic.STRENGTHS
    data = SimpleNamespace(num_classes=2 if several else 4)
    scores = logistic.Fitted(model, strength, 0.0, {"test": test}, data).scores("test")
    said = scores > 0.5 if several else scores.argmax(axis=1)
    assert (said == test.labels).mean() > 0.8


@pytest.mark.parametrize("name", ablations.MODELS)
def test_an_ablation_is_a_method_that_learns(name, monkeypatch):
    monkeypatch.setattr(ablations, "METHODS", METHODS.copy())
    ablations.register()
    monkeypatch.setitem(METHODS, name, ablations.METHODS[name])
    head = HeadConfig(network="squeezed")
    whole, model, made = make("parts", head=head), make(name, head=head), batch([3, 2])
    logits = model(made).logits
    logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    if name == "equal_words":
        assert not model.parts.score.weight.requires_grad
    elif name != "cells":  # of 4 patches, 16 cells are as many
        assert not torch.allclose(logits, whole(made).logits)
