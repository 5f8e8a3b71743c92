"""``epic-pl embed`` through the real command line."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from epic_pl import Classifier
from epic_pl.cli.commands import embed
from epic_pl.module import EPICModule
from epic_pl.utils import part_files


@pytest.mark.parametrize("source", ["data/table.csv", "data/images"])
def test_features_of_a_table_or_a_folder_are_those_of_python(source, trained, told, tmp_path):
    output = tmp_path / "made" / "features"
    named = ["--image", "image", "--text", "text", "--id", "id"] if source.endswith("csv") else []
    options = ["--output", output, *named]
    code, said, error = told("embed", "runs", source, *options)
    assert code == 0, error
    table = pq.read_table(output)
    assert said == f"1 of 1 files are in {output}\n"
    classifier = Classifier.load("runs", device="cpu")
    widths = classifier.module.model.widths
    for name, width in widths._asdict().items():
        assert table.schema.field(name).type == pa.list_(pa.float32(), width)
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
        np.testing.assert_allclose(whole, expected[~np.array(missing)], atol=1e-5)


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


def test_shards_and_ranks_write_the_parts_of_one_process(trained, told, tmp_path, monkeypatch):
    monkeypatch.setattr(part_files, "BATCHES", 1)
    monkeypatch.setattr(embed, "_BATCH_SIZE", 4)

    def embedded(name, *more):
        options = ["--output", tmp_path / name, "--image", "image", "--text", "text", *more]
        code, said, error = told("embed", "runs", "data/table.csv", *options)
        assert code == 0, error
        return said, {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}

    said, whole = embedded("one")
    assert said == f"6 of 6 files are in {tmp_path / 'one'}\n"
    ids = pq.read_table(tmp_path / "one")["sample_id"].to_pylist()
    assert ids == [str(row) for row in range(23)]
    assert embedded("many", "--shard", "3/3")[0].startswith("2 of 6 files")
    torchrun = {"TORCHELASTIC_RUN_ID": "1", "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}
    slurm = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}
    slurm |= {"SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    for launcher, parts in ((torchrun, (1, 2, 5)), (slurm, (0, 1, 2, 5))):
        with monkeypatch.context() as process:
            for name, value in launcher.items():
                process.setenv(name, value)
            _, written = embedded("many", "--shard", "1/3")
        assert sorted(written) == [f"part-00000{part}.parquet" for part in parts]
    assert embedded("many")[1] == whole


def test_features_of_another_model_other_rows_or_images_are_not_kept(
    trained, told, tmp_path, monkeypatch
):
    shutil.copytree("data", tmp_path / "data")
    shutil.copy(trained.checkpoint, tmp_path / "model.ckpt")
    monkeypatch.chdir(tmp_path)
    rows = Path("data/table.csv").read_text().splitlines(keepends=True)

    def embedded(text="text"):
        columns = ["--image", "image", "--text", text, "--id", "id"]
        return told("embed", "model.ckpt", "data/table.csv", *columns)

    def refused(**changed):
        code, _, error = embedded(**changed)
        return code == 1 and "other rows or image files, another model" in error

    assert embedded() == (0, "1 of 1 files are in runs/embeddings\n", "")
    assert refused(text="label")
    renamed, elsewhere = rows[1].replace("train0,", "0,"), rows[1].replace("train0.", "train1.")
    for changed in ([renamed, *rows[2:]], [elsewhere, *rows[2:]], rows[:0:-1]):
        Path("data/table.csv").write_text("".join([rows[0], *changed]))
        assert refused()
    Path("data/table.csv").write_text("".join(rows))
    for place, name, other in (
        (embed, "_BATCH_SIZE", 31),
        (EPICModule, "digest_here", lambda module: "on another device"),
    ):
        with monkeypatch.context() as changed:
            changed.setattr(place, name, other)
            assert refused()
    content = torch.load("model.ckpt", weights_only=True)
    weights = content["state_dict"]
    weights[next(iter(weights))] += 1
    torch.save(content, "model.ckpt")
    assert refused()
    shutil.copy(trained.checkpoint, "model.ckpt")
    assert embedded()[0] == 0
    shutil.copy("data/images/train1.png", "data/images/train0.png")  # under the same name
    assert refused()
