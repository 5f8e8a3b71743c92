"""A second check starts from the table, and what no longer holds is never met by a start."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from epic_pl.data import TableDataModule
from epic_pl.inspection.check import check_data

SPLITS = ["train"] * 8 + ["val"] * 2 + ["test"] * 2


def _picture(path, shade):
    Image.new("RGB", (40, 40), (shade, 0, 0)).save(path)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("EPIC_PL_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "mine"
    folder.mkdir()
    rows = []
    for i in range(12):
        _picture(folder / f"{i}.png", 20 * i)
        row = {"image": f"{i}.png", "text": f"text {i}", "label": "ab"[i % 2], "split": SPLITS[i]}
        rows.append(row)
    pq.write_table(pa.Table.from_pylist(rows), folder / "t.parquet")
    return folder


@pytest.fixture
def make(folder, tiny_vit_dir, tiny_tokenizer_dir):
    def build(**options):
        return TableDataModule(
            table=str(folder / "t.parquet"),
            split_column="split",
            image_encoder=str(tiny_vit_dir),
            text_encoder=str(tiny_tokenizer_dir),
            **options,
        )

    return build


def _warnings(findings):
    return [p.text for p in findings.problems if p.level == "warning"]


@pytest.mark.parametrize("policy", ["skip", "absent"])
def test_bad_rows_are_told_again_until_they_are_mended(folder, make, policy, caplog):
    options = {"on_bad_sample": policy}
    (folder / "3.png").write_bytes(b"<html>")
    (folder / "4.png").unlink()
    for _ in range(2):
        findings = check_data(make(**options), workers=1)
        assert findings.can_train
        assert [text for text in _warnings(findings) if "pictures are" in text] == [
            f"1 pictures are {kind}, in 1 rows: these rows "
            + {"skip": "are skipped", "absent": "lose their picture"}[policy]
            for kind in ("missing", "corrupt")
        ]
        caplog.clear()
        with caplog.at_level("INFO"):
            rows = make(**options).build_dataset("train", lambda image: image).table
        assert "2 rows" in caplog.text  # what a run says of it
        assert (rows.num_rows, rows["image"].null_count) == {"skip": (6, 0), "absent": (8, 2)}[
            policy
        ]

    for name in ("3.png", "4.png"):
        _picture(folder / name, 255)
    findings = check_data(make(**options), workers=1)
    assert not [text for text in _warnings(findings) if "pictures are" in text]
    rows = make(**options).build_dataset("train", lambda image: image).table
    assert (rows.num_rows, rows["image"].null_count) == (8, 0)


def test_a_picture_that_breaks_after_a_check_is_found_by_the_next(folder, make):
    assert check_data(make(), workers=1).can_train
    (folder / "3.png").write_bytes(b"<html>")
    findings = check_data(make(), workers=1)
    assert not findings.can_train
    # what the second check found holds for later runs
    rows = make(on_bad_sample="skip").build_dataset("train", lambda image: image).table
    assert "3" not in rows["sample_id"].to_pylist()


def test_a_picture_of_another_table_is_not_one_of_this(folder, make, tmp_path):
    """Both have a 3.png below their own folder."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "3.png").write_bytes(b"")
    rows = [{"image": "3.png", "text": "new"}, {"image": None, "text": "newer"}]
    pq.write_table(pa.Table.from_pylist(rows), other / "new.parquet")
    options = {"on_bad_sample": "skip", "predict_table": str(other / "new.parquet")}
    assert check_data(make(**options), workers=1).can_train
    assert len(make(**options).build_dataset("train", lambda image: image)) == 8
