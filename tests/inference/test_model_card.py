"""Cards of shared models: what they show, and reports that they refuse."""

import json
from pathlib import Path

import pytest

from epic_pl.inference import model_card
from epic_pl.run.epic_cli import run
from epic_pl.utils.errors import DataError


def test_a_card_shows_a_report_and_one_that_is_there_stays(classifier, trained, tmp_path):
    report = tmp_path / "report"
    run(["test", "--config", trained.config, "--ckpt_path", "best", "--report", str(report)])
    kept = {"dataset": "squares", "license": "cc-by-4.0", "report": report, "name": "me/squares"}
    classifier.save_pretrained(tmp_path / "saved", **kept)
    card = (tmp_path / "saved" / "README.md").read_text()
    measured = json.loads((report / "report.json").read_text())
    accuracy = measured["metrics"]["test/accuracy"]
    alone = next(row for row in measured["absence"] if row["condition"] == "text only")
    for said in (
        "license: cc-by-4.0",
        f"| accuracy | {accuracy:.4f} |",
        "On 7 samples",
        "No training sample lacked its image: scores without it are in the table below",
        f"| text only | {alone['samples']} | {alone['accuracy']:.4f} |",
        "me/squares",
        "calibrated on 4 validation rows, too few rows to calibrate",
    ):
        assert said in card
    assert "either may be missing" not in card
    assert "![Confusion matrix](confusion_matrix.png)" in card
    assert (tmp_path / "saved" / "confusion_matrix.png").stat().st_size > 1000
    (tmp_path / "saved" / "README.md").write_text("mine")
    classifier.save_pretrained(tmp_path / "saved", **kept)
    assert (tmp_path / "saved" / "README.md").read_text() == "mine"
    other = tmp_path / "other_model"
    other.mkdir()
    content = json.loads((report / "report.json").read_text())
    content["weights"] = "those of another run on the same table"
    (other / "report.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="a report on another model"):
        classifier.save_pretrained(tmp_path / "other", report=other)
    for damaged in ({}, {"weights": ""}, {"weights": "", "metrics": {"test/accuracy": "high"}}):
        (other / "report.json").write_text(json.dumps(damaged))
        with pytest.raises(DataError, match=r"report\.json is no report"):
            classifier.save_pretrained(tmp_path / "other", report=other)
    with pytest.raises(DataError, match=r"report\.json cannot be read"):
        classifier.save_pretrained(tmp_path / "other", report=tmp_path)
    (report / "confusion_matrix.png").unlink()
    (report / "confusion_matrix.png").symlink_to(__file__)  # any file of this machine
    with pytest.raises(DataError, match=r"confusion_matrix\.png cannot be read.*symbolic link"):
        classifier.save_pretrained(tmp_path / "other", report=report)
    assert not list((tmp_path / "other").glob("*.png"))


def test_a_card_has_a_line_for_each_class_and_no_path_of_this_machine(make, tmp_path):
    names = ["two\nlines", "`code` | <b>*bold*</b>", "- 1. [link](x) \x1b[31m"]
    module = make(class_names=names)
    model_card.write_card(module, tmp_path, "mine", None, None, None)
    card = (tmp_path / "README.md").read_text()
    assert {line for line in card.splitlines() if line.startswith("- ")} >= {
        "- two lines",
        r"- \`code\` \| \<b\>\*bold\*\</b\>",
        r"- \- 1\. \[link\]\(x\) \\x1b\[31m",
    }
    for side in ("image", "text"):
        folder = Path(module.hparams["encoders"][side]["name"])
        assert str(folder.parent) not in card
        assert folder.name.replace("_", r"\_") in card


@pytest.mark.parametrize(
    ("encoder", "licence"),
    [
        ("pypi:dinov2-small", "apache-2.0"),
        ("vit_small_patch16_224", "apache-2.0"),
        ("me/own", "see"),
    ],
)
def test_the_licence_of_encoders_is_that_of_their_files(encoder, licence):
    assert model_card._licence(encoder).startswith(licence)
