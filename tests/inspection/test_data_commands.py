"""The real command line on a table: init, check, fit, validate, test, predict."""

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from epic_pl.cli import main, run


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("EPIC_PL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "mine"
    folder.mkdir()
    rows = ["image,text,label"]
    for index in range(40):
        colour = ("red", "green")[index % 2]
        Image.new("RGB", (40, 40), colour).save(folder / f"{index}.png")
        rows.append(f'{index}.png,"a {colour} square\nnumber {index}",{colour}')
    (folder / "t.csv").write_text("\n".join(rows))
    return folder


@pytest.fixture
def tiny(tiny_vit_dir, tiny_tokenizer_dir):
    return [
        f"--model.encoders.image.name={tiny_vit_dir}",
        f"--model.encoders.text.name={tiny_tokenizer_dir}",
        "--model.encoders.image_size=32",
        "--model.epic.interaction_layers=2",
    ]


FAST = ["--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--trainer.log_every_n_steps=1"]


def _exit(args):
    with pytest.raises(SystemExit) as stop:
        main(args)
    return stop.value.code


def test_table_config_is_checked_trained_validated_tested_and_predicted(folder, tiny, tmp_path):
    options = ["--config=table.yaml", f"--data.init_args.table={folder / 't.csv'}", *tiny]
    options += ["--data.init_args.batch_size_per_device=8"]
    assert _exit(["data", "check", *options]) == 0
    output = tmp_path / "runs" / "data_check"
    assert pq.read_table(output / "manifest.parquet").num_rows == 40
    assert "Training can start" in (output / "report.html").read_text()

    fitted = run(["fit", *options, *FAST])
    assert fitted.model.class_names == ["green", "red"]
    best = fitted.trainer.checkpoint_callback.best_model_path
    for command in ("validate", "test", "predict"):
        again = run([command, *options, *FAST, f"--ckpt_path={best}"])
        assert again.trainer.state.finished
    (predictions,) = (tmp_path / "runs").rglob("predictions.*")
    ids = again.datamodule.dataset("test").table["sample_id"].to_pylist()
    assert pq.read_table(predictions)["sample_id"].to_pylist() == ids


def test_init_writes_a_config_that_check_takes(folder, tiny, capsys):
    folder = folder.rename(folder.with_name("my own"))
    assert _exit(["data", "init", str(folder)]) == 0
    said = capsys.readouterr().out
    for role, column in (("pictures", "image"), ("text", "text"), ("label", "label")):
        assert f"{role:<10} {column}\n" in said
    assert f"epic-pl fit --config '{folder}/epic.yaml'" in said  # quoted for the shell
    assert _exit(["data", "check", "--config", str(folder / "epic.yaml"), *tiny]) == 0
    assert _exit(["data", "init", str(folder)]) == 1


def test_init_of_a_saved_dataset_trains_on_the_pictures_in_it(tmp_path, monkeypatch, tiny):
    monkeypatch.setenv("EPIC_PL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    names = {"names": ["green", "red"], "_type": "ClassLabel"}
    features = {"image": {"_type": "Image"}, "caption": {"_type": "Value"}, "label": names}
    for split, count in (("train", 24), ("validation", 6), ("test", 6)):
        rows = []
        for index in range(count):
            buffer = io.BytesIO()
            colour = ("green", "red")[index % 2]
            Image.new("RGB", (40, 40 + index), colour).save(buffer, "PNG")
            picture = {"bytes": buffer.getvalue(), "path": f"{index}.png"}
            rows.append(
                {"image": picture, "caption": f"square {index}, {colour}", "label": index % 2}
            )
        folder = tmp_path / "mine" / split
        folder.mkdir(parents=True)
        table = pa.Table.from_pylist(rows)
        with (
            pa.OSFile(str(folder / "a.arrow"), "wb") as file,
            pa.ipc.new_stream(file, table.schema) as writer,
        ):
            writer.write_table(table)
        (folder / "dataset_info.json").write_text(json.dumps({"features": features}))
    splits = {"splits": ["train", "validation", "test"]}
    (tmp_path / "mine" / "dataset_dict.json").write_text(json.dumps(splits))

    assert _exit(["data", "init", str(tmp_path / "mine")]) == 0
    config = tmp_path / "mine" / "epic.yaml"
    options = yaml.safe_load(config.read_text())
    assert options["data"]["init_args"]["image_column"] == "image"
    assert options["data"]["init_args"]["text_columns"] == "caption"
    assert options["model"]["encoders"]["image_size"] == 112  # of small pictures
    trained = run(["fit", f"--config={config}", *tiny, *FAST])
    assert trained.model.class_names == ["green", "red"]
    assert len(trained.datamodule.dataset("train")) == 24
    assert trained.datamodule.dataset("train").raw(3)["image"].size == (40, 43)


def test_a_read_only_folder_is_named(tmp_path, capsys, monkeypatch):
    rows = [f"a text that is number {i},{'xy'[i % 2]}" for i in range(20)]
    (tmp_path / "t.csv").write_text("\n".join(["text,label", *rows]))

    def refuse(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "write_text", refuse)
    assert _exit(["data", "init", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "PermissionError: [Errno 13] Permission denied: " in said
    assert "epic.yaml" in said
