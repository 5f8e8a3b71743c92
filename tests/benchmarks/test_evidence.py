"""``benchmarks/evidence.py`` and its controls on fabricated scenes and tiny encoders."""

import json
import shutil

import numpy as np
import pytest

import classical
import evidence
from controls import scenes


@pytest.fixture
def options(on_named, monkeypatch):
    monkeypatch.setattr(scenes, "_ROWS", {"val": 24, "test": 24})
    monkeypatch.setattr(scenes, "_CHUNK", 16)
    return [*on_named, "--data.rows=48"]


@pytest.mark.slow
def test_a_task_is_compared_and_its_opening_noted_once(options, tmp_path, monkeypatch):
    (tmp_path / "ledger.md").write_text("# Ledger\n")
    monkeypatch.setattr(evidence, "clean_commit", lambda: ("abc", "sources"))
    arguments = ["evidence.py", "--tasks=scenes", "--methods=EPIC,NoPrompts", "--seeds=1"]
    arguments += ["--tune=1", f"--records={tmp_path}", *options]
    monkeypatch.setattr("sys.argv", arguments)
    assert evidence.main() == 0
    monkeypatch.setattr(classical, "features", None)  # what is finished is not repeated
    assert evidence.main() == 0
    # the records have what was chosen
    shutil.rmtree(tmp_path / "runs/evidence/sources/scenes/tune")
    assert evidence.main() == 0
    assert not (tmp_path / "runs/evidence/sources/scenes/tune").exists()
    chosen = json.loads((tmp_path / "evidence/chosen/scenes.json").read_text())
    assert set(chosen["chosen"]) == {"EPIC", "NoPrompts"}
    lines = (tmp_path / "ledger.md").read_text().splitlines()
    assert len(lines) == 2
    assert " | abc | scenes | `python benchmarks/evidence.py --tasks=scenes" in lines[1]
    assert "opened" not in lines[1]
    for name in ("majority", "EPIC", "NoPrompts", "cca", "logistic"):
        assert f"{name} " in lines[1].split("accuracy: ")[1]
    rows = json.loads((tmp_path / "evidence/scenes.json").read_text())
    found = {row["method"]: row for row in rows if row["metric"] == "accuracy"}
    assert 0 < found["cca"]["p_value"] <= 1
    assert any(row["metric"] == "accuracy_relation" for row in rows if row["method"] == "cca")
    shares = {row["method"]: row["mean"] for row in rows if row["metric"].endswith("_relations")}
    assert set(shares) == {"EPIC", "NoPrompts", "cca", "logistic"}
    relations = {row["method"]: row["mean"] for row in rows if row["metric"].endswith("_relation")}
    # of two that are each other's reverse, one is true: who has half of them right may have none
    for name, right in relations.items():
        assert max(0, 2 * right - 1) - 1e-6 <= shares[name] <= right + 1e-6
    assert "| cca |" in (tmp_path / "evidence/scenes.md").read_text()


def test_an_opening_that_was_not_finished_stays_in_the_ledger(options, tmp_path, monkeypatch):
    (tmp_path / "ledger.md").write_text("# Ledger\n")
    monkeypatch.setattr(evidence, "clean_commit", lambda: ("abc", "sources"))

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(evidence, "compare", interrupted)
    monkeypatch.setattr("sys.argv", ["evidence.py", "--tasks=icons", f"--records={tmp_path}"])
    assert evidence.main() == 130
    assert "icons" in (line := (tmp_path / "ledger.md").read_text().splitlines()[1])
    assert "opened, not finished" in line


def test_the_likelihood_is_the_geometric_mean_of_the_probabilities_of_the_truth():
    scores = {"probability_a": [0.5, 0.2], "probability_b_c": [0.5, 0.8]}
    assert evidence.likelihood({"truth": ["a", "b_c"], **scores}) == pytest.approx(0.4**0.5)
    several = [["a", "b_c"], []]
    product = 0.5 * 0.5 * 0.8 * 0.2
    assert evidence.likelihood({"truth": several, **scores}) == pytest.approx(product**0.25)
    sure = {"truth": ["b_c"], "probability_a": [1.0], "probability_b_c": [0.0]}
    assert 0 < evidence.likelihood(sure) < 1e-6


def test_cca_finds_the_match_of_two_modalities_and_the_class_of_both():
    rng = np.random.default_rng(0)
    hidden, other = rng.normal(size=(2, 600, 4))
    labels = rng.integers(2, size=600)
    maps = rng.normal(size=(2, 4, 12))
    image = hidden @ maps[0] + 0.3 * rng.normal(size=(600, 12))
    text = np.where(labels[:, None], hidden, other) @ maps[1]
    rows = classical.Rows(image, text, labels, [], [])
    train, val, test = (
        classical.Rows(image[part], text[part], labels[part], [], [])
        for part in (slice(300), slice(300, 450), slice(450, 600))
    )
    model = classical.fit_cca(train, val, 2)
    assert classical.accuracy(model, test) > 0.85
    fitted = [classical.cca(train, strength, 2) for strength in classical.STRENGTHS]
    found = [classical.accuracy(classical.with_threshold(each, val), val) for each in fitted]
    assert classical.accuracy(model, val) == max(found) > min(found)
    # with three classes both modalities are related to the labels
    classes = (image[:, :3] + text[:, :3]).argmax(axis=1)
    train, test = (
        rows._replace(image=image[part], text=text[part], labels=classes[part])
        for part in (slice(450), slice(450, 600))
    )
    assert classical.accuracy(classical.cca(train, 0.01, 3), test) > 0.7


@pytest.mark.parametrize("several", [False, True])
def test_logistic_regression_knows_the_classes(several):
    rng = np.random.default_rng(0)
    image, text = rng.normal(size=(2, 240, 5))
    labels = (image[:, 0] + text[:, 0] > 0).astype(int) + 2 * (image[:, 1] > 0)
    # two labels a row, or one of the last four of five classes
    labels = np.stack([labels % 2, labels // 2], axis=1) if several else labels + 1
    rows = classical.Rows(image, text, labels, ["id"] * 240, [])
    train, test = (
        rows._replace(image=image[part], text=text[part], labels=labels[part], ids=rows.ids[part])
        for part in (slice(160), slice(160, 240))
    )
    model = classical.fit_logistic(train, 2 if several else 5)
    scores = model.scores(test)
    said = scores > 0.5 if several else scores.argmax(axis=1)
    assert (said == test.labels).mean() > 0.8
