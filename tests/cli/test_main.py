"""The entry point: what it answers itself, and that help loads nothing heavy."""

import gc
import os
import re
import signal
import subprocess
import sys

import pytest

from epic_pl import __version__
from epic_pl.cli.main import COMMANDS, OF_TRAINER, main
from epic_pl.run import epic_cli as cli
from epic_pl.utils.config_files import packaged, packaged_configs
from epic_pl.utils.errors import counted

HEAVY = ("torch", "lightning", "transformers", "timm", "pyarrow", "numpy")


def _printed(args, capsys):
    """Standard output and exit code."""
    code = 0
    try:
        main(args)
    except SystemExit as stop:
        code = stop.code
    return capsys.readouterr().out, code


@pytest.mark.parametrize("args", [[], ["-h"], ["--help"]])
def test_help_names_commands_and_packaged_files(args, capsys):
    printed, code = _printed(args, capsys)
    assert code == 0
    names = [*COMMANDS, *packaged_configs(), *packaged("variants"), *packaged("spaces")]
    assert len(names) > 20
    assert all(f" {name}" in printed for name in names)


def test_version(capsys):
    assert _printed(["--version"], capsys) == (f"epic-pl {__version__}\n", 0)


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (["cache", "build"], "epic-pl fit"),
        (["cache", "info", "-h"], "--folder"),
        (["compare"], "--variants"),
        (["data", "--help"], "usage: epic-pl data check"),
        (["data"], "usage: epic-pl data init"),
        (["cache", "-h"], "usage: epic-pl cache info"),
        (["export"], "--overwrite"),
        (["fit", "--help"], "--checkpoint.monitor"),
        (["predict", "--help"], "--trainer.devices"),
        (["compare", "--config", "openmoji.yaml", "--help"], "--variants"),
    ],
)
def test_help_of_a_command_lists_its_options(args, part, capsys):
    printed, code = _printed(args, capsys)
    assert part in printed
    assert code == 0


@pytest.mark.parametrize(
    "option", ["--help", "--model.help=EPICModule", "--data.help=TableDataModule"]
)
def test_help_is_without_markup(option, capsys):
    printed, _ = _printed(["fit", option], capsys)
    assert printed.count("`") > 2
    assert not re.search(r"``|:\w+:`|\.\.\s+\w+:|\w::\s|\]_", printed)


def test_help_loads_nothing_heavy():
    commands = [name.split() for name in COMMANDS if name not in OF_TRAINER]
    code = (
        "import sys\n"
        "from epic_pl.cli.main import main\n"
        "main(['--help'])\n"
        "assert 'jsonargparse' not in sys.modules\n"
        f"for args in {[[*command, '--help'] for command in commands]!r}:\n"
        "    try: main(args)\n"
        "    except SystemExit: pass\n"
        f"print('loaded:', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.count("usage: epic-pl") == 1 + len(commands)
    assert done.stdout.splitlines()[-1] == "loaded: []"


def test_commands_run_with_their_arguments(monkeypatch):
    ran = []
    monkeypatch.setattr(cli, "run", lambda argv: ran.append(argv))
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    for args, policy in ((["fit", "--help"], "PASSIVE"), (["--x"], "ACTIVE")):
        main(args)
        assert ran.pop() == args
        assert os.environ["OMP_WAIT_POLICY"] == policy
        monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")  # a user's own stays
    assert gc.isenabled()


# interrupts itself where it looks for a module
INTERRUPTED = """
import os, signal, sys

wanted, sys.argv[1] = sys.argv[1], "fit"

class Finder:
    @staticmethod
    def find_spec(name, *_):
        if name == wanted:
            os.kill(os.getpid(), signal.SIGINT)

from epic_pl.__main__ import start
sys.meta_path.insert(0, Finder)
start()
"""


@pytest.mark.parametrize("module", ["yaml", "torch"])
def test_ctrl_c_during_imports_is_one_line(module):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the child's too, under nohup
    command = [sys.executable, "-c", INTERRUPTED, module]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "epic-pl: interrupted\n")


@pytest.mark.parametrize(
    ("word", "known", "meant"),
    [
        ("ft", list(COMMANDS), " Did you mean 'fit'?"),
        ("data --x", ["data check", "data init"], ""),
        ("data chek", ["data check", "data init"], " Did you mean 'data check'?"),
    ],
)
def test_an_unknown_command_is_told_with_those_that_it_may_mean(capsys, word, known, meant):
    with pytest.raises(SystemExit) as caught:
        main([*word.split(), "--help"])
    assert caught.value.code == 1
    said = f"epic-pl: no command {word!r}; there are {', '.join(known)}."
    assert capsys.readouterr().err == f"{said}{meant}\n"


@pytest.mark.parametrize(
    ("args", "unbuffered"),
    [
        (["--help"], ""),
        (["--help"], "1"),
        pytest.param(["doctor"], "", marks=pytest.mark.slow),
    ],
)
def test_a_closed_pipe_ends_quietly(args, unbuffered):
    end, pipe = os.pipe()
    os.close(end)  # as `head` does when it has its lines
    command = [sys.executable, "-m", "epic_pl", *args]
    own = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    with os.fdopen(pipe, "wb") as stdout:
        done = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, env=own)
    assert (done.returncode, done.stderr) == (141, "")


def test_what_is_counted_agrees_with_its_number():
    assert (counted(1, "rows"), counted(2000, "rows")) == ("1 row", "2,000 rows")
