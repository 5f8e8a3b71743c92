"""The entry point alone: what it answers, and that it loads nothing heavy for it."""

import gc
import subprocess
import sys

import pytest

from epic_pl import __version__
from epic_pl.config_files import packaged_configs
from epic_pl.main import main

HEAVY = ("torch", "lightning", "transformers", "timm", "pyarrow", "numpy", "jsonargparse")


def _told(args, capsys):
    """Standard output and exit code."""
    code = 0
    try:
        main(args)
    except SystemExit as stop:
        code = stop.code
    return capsys.readouterr().out, code


@pytest.mark.parametrize("args", [[], ["-h"], ["--help"]])
def test_help_names_commands_options_and_configs(args, capsys):
    said, code = _told(args, capsys)
    assert code == 0
    for part in (
        "fit",
        "validate",
        "test",
        "predict",
        "data check",
        "data init",
        "cache build",
        "compare",
        "explain",
        "export",
        "tune",
    ):
        assert f" {part} " in said
    assert "epic-pl fit --help" in said
    assert "{info,verify,clear}" in said
    assert "{data,cache,compare,tune,explain,export} --help" in said
    assert len(packaged_configs()) > 10
    assert all(name in said for name in packaged_configs())


def test_version(capsys):
    assert _told(["--version"], capsys) == (f"epic-pl {__version__}\n", 0)


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (["data", "--help"], "{check,init}"),
        (["data"], "{check,init}"),
        (["data", "check", "-h"], "--workers"),
        (["data", "init", "somewhere", "--help"], "--force"),
        (["cache", "-h"], "--remove-corrupt"),
        (["cache"], "{build,info,verify,clear}"),
        (["cache", "info", "--help"], "{build,info,verify,clear}"),
        (["compare"], "--reference"),
        (["tune"], "--search_seed"),
        (["export"], "--overwrite"),
        (["export", "--ckpt_path", "x", "--help"], "--ckpt_path"),
        (["compare", "--config", "openmoji.yaml", "--help"], "--reference"),
    ],
)
def test_help_of_data_cache_and_compare(args, part, capsys):
    said, code = _told(args, capsys)
    assert part in said
    assert code == 0


@pytest.mark.parametrize(
    "args",
    [
        ["--help"],
        ["data", "check", "--help"],
        ["cache", "--help"],
        ["compare", "-h"],
        ["export", "-h"],
    ],
)
def test_help_loads_nothing_heavy(args):
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['epic-pl', *{args!r}]\n"
        "try: runpy.run_module('epic_pl', run_name='__main__')\n"
        "except SystemExit: pass\n"
        f"print('loaded:', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "usage: epic-pl" in done.stdout
    assert done.stdout.splitlines()[-1] == "loaded: []"


def test_all_else_goes_to_the_full_command_line(monkeypatch):
    from epic_pl import commands

    ran = []
    monkeypatch.setattr(commands, "run_command", ran.append)
    for args in (["fit", "--help"], ["cache", "build", "--help"], ["data", "check", "x"], ["--x"]):
        main(args)
        assert ran.pop() == args
    assert gc.isenabled()
