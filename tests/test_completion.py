"""The script of ``epic-pl completion``, asked by a real bash."""

import io
import shutil
import subprocess
import sys
from contextlib import redirect_stdout

import pytest

from epic_pl.main import COMMANDS, main


@pytest.fixture(scope="module")
def script():
    with redirect_stdout(io.StringIO()) as printed, pytest.raises(SystemExit):
        main(["completion", "bash"])
    return printed.getvalue()


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["exp"], ["explain", "export"]),
        (["fit", "--config", "openmoji"], ["openmoji.yaml", "openmoji_entailment.yaml"]),
        (["fit", "--trainer.max_ep"], ["--trainer.max_epochs"]),
        (["compare", "--config", "sce"], ["scenes.yaml"]),
        (["data", ""], ["check", "init"]),
        (["data", "init", "--ima"], ["--image"]),
        (["export", "--form"], ["--format"]),
        (["fit", "--model.method", "lin"], ["linear_probe"]),
        (["compare", "--methods", "epic,part"], ["epic,part_means", "epic,parts"]),
        (["compare", "--variants", "equ"], ["equality.yaml"]),
        (["tune", "--space", "wi"], ["wide.yaml"]),
        (["test", "--ckpt_path", "b"], ["best", "big.ckpt"]),
        (["explain", "--ckpt_path", "la"], ["last"]),
        (["export", "--ckpt_path", "la"], ["last"]),
        (["test", "--ckpt_path", "ru"], ["runs"]),
        (["export", "--output", "ru"], ["runs"]),
        (["explain", "--output", "ru"], ["runs"]),
        *((["serve", *others, "ru"], ["runs"]) for others in ([], ["one"], ["one", "two"])),
        (["serve", "runs/", "--po"], ["--port"]),
        (["app", "runs/d"], ["runs/demo"]),
        (["embed", "runs/demo", "bi"], ["big.ckpt"]),
        (["app", "--con"], []),
        (["completion", "bi"], []),
    ],
)
def test_bash_completes(words, expected, script, workdir):
    words = ["epic-pl", *words]
    (workdir / "big.ckpt").touch()
    (workdir / "runs" / "demo").mkdir(parents=True)
    asked = (
        f"{script}\nCOMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}\n"
        '_shtab_epic_pl; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash"], input=asked, capture_output=True, text=True, check=True)
    assert sorted(done.stdout.split()) == expected


def test_zsh_gets_all_commands(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["completion", "zsh"])
    printed = capsys.readouterr().out
    assert caught.value.code == 0
    assert printed.startswith("#compdef epic-pl")
    assert all(f" {word}:" in printed for name in COMMANDS for word in name.split())


def test_without_shtab_it_is_named(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(SystemExit) as caught:
        main(["completion", "bash"])
    assert caught.value.code == 1
    assert "pip install shtab" in capsys.readouterr().err
