"""``epic-pl cache build`` through the real command line, and the runs that read what it stored."""

import pytest
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy

import tiny_runs
from epic_pl.callbacks.feature_items import Items
from epic_pl.cli import main
from epic_pl.errors import ConfigError

OPTIONS = ["--model.prompt_attention", "read_only", "--cache.level", "layers"]


@pytest.fixture
def project(tmp_path, monkeypatch, tiny_vit_dir, tiny_tokenizer_dir):
    """A folder with a table and its config, which is also the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["epic-pl"])
    tiny_runs.table(tmp_path / "data")
    tiny_runs.table_config(tmp_path / "data", tiny_vit_dir, tiny_tokenizer_dir)
    return tmp_path


def options(project):
    folder = str(project / "features")
    return ["--config", str(project / "data" / "tiny.yaml"), *OPTIONS, "--cache.folder", folder]


def build(project, *more):
    with pytest.raises(SystemExit) as ended:
        main(["cache", "build", *options(project), *more])
    return ended.value.code


def test_encoders_run_on_the_trainers_device(project, monkeypatch):
    # another name of the only device there is: the module tells where it was moved
    device = torch.device("cpu", 0)
    monkeypatch.setattr(SingleDeviceStrategy, "root_device", device)
    seen, encode = set(), Items.encode

    def spy(items, keys):
        seen.add(items.module.device)
        return encode(items, keys)

    monkeypatch.setattr(Items, "encode", spy)
    assert build(project) == 0
    assert seen == {device}


@pytest.mark.parametrize("command", ["cache build", "fit"])
def test_a_precision_that_the_device_lacks_is_refused_before_anything_is_stored(
    project, monkeypatch, capsys, command
):
    def refuse(precision, device):
        raise ConfigError(f"{precision} on {device}")

    monkeypatch.setattr("epic_pl.performance.check_precision", refuse)
    with pytest.raises(SystemExit) as ended:
        main([*command.split(), *options(project), "--model.encoder_precision", "fp16"])
    assert ended.value.code == 1
    assert "fp16 on cpu" in capsys.readouterr().err
    assert not (project / "features").exists()
