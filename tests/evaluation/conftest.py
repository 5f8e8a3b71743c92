"""One run of the command line, which explain and export read."""

import csv
from types import SimpleNamespace

import pytest

import tiny_runs
from epic_pl.cli import main, run

EVIL = "<script>alert('$x$')</script> \U0001f355"


@pytest.fixture(scope="session")
def two_epochs(tmp_path_factory, tiny_vit_dir, tiny_tokenizer_dir):
    """A run of two epochs that logged what its prompts look at; some test rows are special."""
    root = tmp_path_factory.mktemp("trained")
    table = tiny_runs.table(root / "data")
    rows = list(csv.DictReader(table.open()))
    test = {row["id"]: row for row in rows}
    test["test1"]["image"] = test["test2"]["text"] = ""
    test["test3"]["text"] = EVIL
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    config = str(tiny_runs.table_config(root / "data", tiny_vit_dir, tiny_tokenizer_dir))
    drawn = ["--explain.every_n_epochs", "2", "--explain.samples", "2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr("sys.argv", ["epic-pl"])
        run(["fit", "--config", config, "--model.optim.lr", "0.05", *drawn])
    (checkpoint,) = root.rglob("best.ckpt")
    return SimpleNamespace(root=root, config=config, checkpoint=str(checkpoint))


@pytest.fixture
def trained(two_epochs, monkeypatch):
    """That run; its folder is the working folder."""
    monkeypatch.chdir(two_epochs.root)
    monkeypatch.setattr("sys.argv", ["epic-pl"])
    return two_epochs


@pytest.fixture
def told(capsys):
    """The command line: exit code, stdout and stderr."""

    def told(*arguments):
        with pytest.raises(SystemExit) as stop:
            main([*map(str, arguments)])
        said = capsys.readouterr()
        return stop.value.code, said.out, said.err

    return told
