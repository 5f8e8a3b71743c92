"""``epic-pl embed`` through the real command line."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from epic_pl import Classifier
from epic_pl.cli.commands import embed
from epic_pl.data import bulk_pass
from tolerance import assert_same


@pytest.mark.parametrize("source", ["data/table.csv", "moved.csv", "data/images"])
def test_features_of_a_table_or_a_folder_are_those_of_python(source, trained, told, tmp_path):
    output = tmp_path / "made" / "features"
    named = ["--image", "image", "--text", "text", "--id", "id"] if source.endswith("csv") else []
    if source == "moved.csv":
        shutil.copy("data/table.csv", source)
        named += ["--image_root", "data"]
    options = ["--output", output, *named]
    code, said, error = told("embed", "runs", source, *options)
    assert code == 0, error
    table = pq.read_table(output)
    assert said == f"1 of 1 files are in {output}\n"
    classifier = Classifier.load("runs", device="cpu")
    widths = classifier.module.model.widths
    for name, width in widths._asdict().items():
        assert table.schema.field(name).type == pa.list_(pa.float32())
        assert set(pc.list_value_length(table[name]).drop_null().to_pylist()) <= {width}
    if named:
        assert table["sample_id"].to_pylist()[:2] == ["train0", "train1"]
        items = [
            {"image": row["image"] and f"data/{row['image']}", "text": row["text"]}
            for row in csv.DictReader(Path(source).read_text().splitlines())
        ]
        items = [{name: value or None for name, value in item.items()} for item in items]
        assert (table["image"].null_count, table["text"].null_count) == (1, 1)
    else:
        items = [{"image": f"{source}/{name}"} for name in table["sample_id"].to_pylist()]
        assert table["text"].null_count == len(items)
    for name, expected in classifier.embed(items).items():
        rows = table[name].to_pylist()
        missing = [row is None for row in rows]
        assert missing == np.isnan(expected[:, 0]).tolist()
        whole = np.array([row for row in rows if row is not None]).reshape(-1, expected.shape[1])
        assert_same(whole.astype(np.float32), expected[~np.array(missing)])


def test_what_cannot_be_embedded_is_told_before_anything_is_written(trained, told, tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "1.png").write_bytes(b"no image")
    output = tmp_path / "out"
    for options, part in (
        ([], "1.png"),
        ([], "set on_bad_sample to skip"),
        (["--on_bad_sample", "skip"], "No row of"),
        (["--on_bad_sample", "drop"], "on_bad_sample"),
    ):
        code, _, error = told("embed", "runs", tmp_path / "bad", "--output", output, *options)
        assert code == 1
        assert part in error
        assert not list(output.glob("*"))


def test_bad_rows_are_treated_as_the_run_did(trained, told, tmp_path):
    run = Path(trained.checkpoint).parents[1]
    made = shutil.copytree(run, tmp_path / "run") / "config.yaml"
    content = made.read_text()
    assert "on_bad_sample: error" in content
    (tmp_path / "bad.csv").write_text("image\nno_such.png\nimages/test0.png\n")
    options = [tmp_path / "bad.csv", "--image", "image", "--image_root", "data", "--output"]
    for policy, code in (("skip", 0), ("error", 1)):
        made.write_text(content.replace("on_bad_sample: error", f"on_bad_sample: {policy}"))
        found, _, error = told("embed", made.parent, *options, tmp_path / policy)
        assert found == code, error


def test_ranks_and_shards_have_parts_of_their_own(trained, told, tmp_path, monkeypatch):
    monkeypatch.setattr(bulk_pass, "BATCHES", 1)
    monkeypatch.setattr(embed, "_BATCH_SIZE", 4)
    torchrun = {"TORCHELASTIC_RUN_ID": "1", "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}
    slurm = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}
    slurm |= {"SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    options = ["--output", tmp_path / "out", "--text", "text", "--shard"]
    written = []
    for shard, launcher, parts in (
        ("3/3", {}, [2, 5]),
        ("1/3", torchrun, [1]),
        ("1/3", slurm, [0]),
    ):
        with monkeypatch.context() as process:
            for name, value in launcher.items():
                process.setenv(name, value)
            code, said, error = told("embed", "runs", "data/table.csv", *options, shard)
        assert code == 0, error
        written = sorted([*written, *(f"part-00000{part}.parquet" for part in parts)])
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == written
        assert said.startswith(f"{len(written)} of 6 files")
