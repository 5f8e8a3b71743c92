"""``--trusted-only``: what a config may name then, and what its classes do with hostile values."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from jsonargparse import ArgumentError
from jsonargparse._common import parsing_settings

import tiny_runs
from epic_pl.cli import run
from epic_pl.errors import ConfigError
from epic_pl.experiments.reproduce import reproduce
from epic_pl.main import main

CODE = "open('pwned', 'w')"


@pytest.fixture
def config(workdir, tiny_vit_dir, tiny_tokenizer_dir, monkeypatch):
    # the limit holds for a process, and other tests share this one
    for name in ("import_path_verdicts", "import_paths_enforced"):
        monkeypatch.setitem(parsing_settings, name, parsing_settings[name])
    tiny_runs.table(workdir / "data")
    return str(tiny_runs.table_config(workdir / "data", tiny_vit_dir, tiny_tokenizer_dir))


def _callbacks(kind, **options):
    return {"trainer": {"callbacks": [{"class_path": kind, "init_args": options}]}}


def _strategy(**options):
    return {"trainer": {"strategy": {"class_path": "DDPStrategy", **options}}}


GRAPH = {
    "class_path": "torch.fx.graph_module.reduce_graph_module",
    "init_args": {"body": {"_code": "\npass"}, "import_block": CODE},
}
LAMBDA = "lightning.pytorch.callbacks.lambda_function.LambdaCallback"
PRUNING = "lightning.pytorch.callbacks.ModelPruning"
METHOD = "lightning.pytorch.callbacks.EarlyStopping.on_validation_end"


@pytest.mark.parametrize(
    ("theirs", "culprit"),
    [
        (_callbacks("ModelPruning", pruning_fn="l1", parameters_to_prune=[[GRAPH, "a"]]), PRUNING),
        (_callbacks(PRUNING, pruning_fn="torch.hub.load"), PRUNING),
        (_callbacks("LambdaCallback", on_fit_start="torch.hub.load"), "LambdaCallback"),
        (_callbacks(LAMBDA), LAMBDA),
        # the name of a class in a module that imports it
        (_callbacks("lightning.pytorch.callbacks.timer.Callback"), "timer.Callback"),
        (_callbacks("lightning.pytorch.cli.SaveConfigCallback"), "SaveConfigCallback"),
        (_callbacks("trap.Trap"), "trap.Trap"),
        # functions and methods for an option that takes a callable
        (_strategy(init_args={"ddp_comm_hook": "torch.hub.load"}), "torch.hub.load"),
        (_strategy(init_args={"ddp_comm_hook": METHOD}), "EarlyStopping.on_validation_end"),
        (_strategy(init_args={"ddp_comm_hook": "torch.nn.ReLU"}), "torch.nn.ReLU"),
        (_strategy(init_args={"ddp_comm_hook": METHOD.replace("on_validation_end", "mro")}), "mro"),
        (_strategy(dict_kwargs={"static_graph": GRAPH}), "reduce_graph_module"),
        ({"trainer": {"plugins": [GRAPH]}}, "reduce_graph_module"),
        # what sends results, and the user's credentials, to the server that a config names
        ({"trainer": {"logger": "WandbLogger"}}, "WandbLogger"),
        ({"data": {"class_path": "epic_pl.cli.run"}}, "epic_pl.cli.run"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_config_of_others_names_only_listed_classes(
    theirs, culprit, config, workdir, monkeypatch
):
    (workdir / "trap.py").write_text(
        f"from lightning import Callback\n{CODE}\nclass Trap(Callback): pass\n"
    )
    monkeypatch.syspath_prepend(workdir)
    Path("theirs.yaml").write_text(yaml.safe_dump(theirs))
    with pytest.raises((ConfigError, ArgumentError)) as caught:
        run(["fit", "--config", config, "--config", "theirs.yaml", "--trusted-only"], "build")
    assert culprit in str(caught.value)
    assert not Path("pwned").exists()


def test_a_class_named_among_arguments_without_a_type_is_not_built(config):
    theirs = _strategy(dict_kwargs={"unknown": GRAPH})
    Path("theirs.yaml").write_text(yaml.safe_dump(theirs))
    args = ["fit", "--config", config, "--config", "theirs.yaml", "--trusted-only"]
    assert run(args, "build").trainer.strategy._ddp_kwargs["unknown"] == GRAPH
    assert not Path("pwned").exists()


@pytest.mark.parametrize("place", ["before the command", "after it"])
def test_classes_of_recipes_stay_allowed(place, config):
    bar = {"class_path": "lightning.pytorch.callbacks.TQDMProgressBar"}
    logger = {"class_path": "CSVLogger", "init_args": {"save_dir": "logs"}}
    names = {"callbacks": [bar, "LearningRateMonitor"], "logger": logger}
    Path("ours.yaml").write_text(
        yaml.safe_dump({"trainer": {**names, "profiler": "SimpleProfiler"}})
    )
    args = ["fit", "--config", config, "--config", "ours.yaml", "--trainer.accelerator=cpu"]
    args.insert(0 if place == "before the command" else len(args), "--trusted-only")
    trainer = run(args, "build").trainer
    assert type(trainer.progress_bar_callback).__name__ == "TQDMProgressBar"


def test_a_run_of_listed_classes_is_reproduced(config):
    args = ["fit", "--config", config, "--trainer.max_epochs=1", "--trusted-only"]
    assert reproduce(Path(run(args).trainer.log_dir), trusted_only=True) == 0


@pytest.mark.parametrize(
    "command",
    [
        "validate",
        "test",
        "predict",
        "explain",
        "compare --methods epic --seeds 1",
        "compare --methods variants --variants theirs.yaml --seeds 1",
        "tune --trials 1",
        "data check",
        "cache build",
        "export --format onnx --ckpt_path none.ckpt --int8",
        "reproduce theirs",
    ],
)
def test_every_command_that_takes_a_config_of_others_holds_it_to_them(
    command, config, workdir, capsys
):
    content = yaml.safe_load(Path(config).read_text())
    content["trainer"] |= _callbacks("LambdaCallback")["trainer"]
    (workdir / "theirs").mkdir()
    (workdir / "theirs" / "config.yaml").write_text(yaml.safe_dump(content))
    (workdir / "theirs" / "run.json").write_text(
        '{"made_of": {}, "result": {"metrics": {}, "weights": ""}}'
    )
    args = [*command.split(), "--trusted-only"]
    if "theirs.yaml" in args:
        variant = {"it": {"method": "epic", "trainer.callbacks": content["trainer"]["callbacks"]}}
        (workdir / "theirs.yaml").write_text(yaml.safe_dump(variant))
        args += ["--config", config]
    elif args[0] != "reproduce":
        args += ["--config", "theirs/config.yaml"]
    with pytest.raises(SystemExit) as caught:
        main(args)
    assert caught.value.code == 1
    assert "'lightning.pytorch.callbacks.LambdaCallback'" in capsys.readouterr().err


class _Payload:
    def __reduce__(self):
        return exec, (CODE,)


def test_a_config_of_others_never_unpickles_a_checkpoint(config, workdir):
    (workdir / "evil.ckpt").write_bytes(pickle.dumps(_Payload()))
    theirs = {"ckpt_path": f"file://{workdir}/evil.ckpt", "weights_only": False}
    Path("theirs.yaml").write_text(yaml.safe_dump(theirs))
    with pytest.raises(Exception, match=r"evil.ckpt|[Ww]eights.only"):
        run(["fit", "--config", config, "--config", "theirs.yaml", "--trusted-only"])
    assert not Path("pwned").exists()


# constructs each class in a process of its own, since an audit hook stays for good
_CONSTRUCT = """
import inspect, os, sys
from contextlib import redirect_stdout, suppress

import jsonargparse
import torch.fx.graph_module
from epic_pl.trusted import DENIED, TRUSTED

MARK = "epic_hostile"
INSIDE, OUTSIDE = os.getcwd(), os.path.join(os.path.dirname(os.getcwd()), "outside")
CODE = f"__import__('os').system('touch {MARK}')"
HOSTILE = [CODE, MARK + ".call", "os.system", OUTSIDE, {"class_path": MARK + ".Call"}, [CODE]]
PROCESSES = ("subprocess.", "os.system", "os.exec", "os.fork", "os.spawn", "os.posix_spawn", "pty.")
CHANGES = ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink", "shutil.")
seen, watching = set(), False


def hook(event, arguments):
    if not watching:
        return
    text = ""
    if event == "exec":
        code = arguments[0]
        text = repr((code.co_names, code.co_consts))
    elif event in ("compile", "import"):
        text = repr(arguments[0])
    bad = MARK in text or event.startswith((*PROCESSES, "socket."))
    if event == "open" and isinstance(arguments[0], str):
        writes = arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        bad = writes and not os.path.abspath(arguments[0]).startswith((INSIDE, "/dev/"))
    elif event.startswith(CHANGES):
        bad = not os.path.abspath(str(arguments[0])).startswith(INSIDE)
    if bad:
        seen.add(event)


def attempt(kind, parser, options):
    with suppress(Exception, SystemExit):
        path = f"{kind.__module__}.{kind.__qualname__}"
        given = parser.parse_object({"it": {"class_path": path, "init_args": options}})
        parser.instantiate_classes(given)
    with suppress(Exception, SystemExit):
        kind(**options)


def probe(kind):
    global watching
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    if inspect.isclass(kind):
        parser.add_subclass_arguments(kind, "it", fail_untyped=False)
        attempt(kind, parser, {})  # the parser asks another process for stubs, once
    parameters = inspect.signature(kind).parameters.values()
    taken = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    names, needed = [p.name for p in taken], [p.name for p in taken if p.default is p.empty]
    seen.clear()
    watching = True
    for value in HOSTILE:
        attempt(kind, parser, dict.fromkeys(names, value))
        for name in names:
            attempt(kind, parser, dict.fromkeys([*needed, name], value))
    watching = False
    return sorted(seen)


sys.addaudithook(hook)
jsonargparse.set_parsing_settings(
    import_path_denylist=DENIED,
    import_path_allowlist=[*TRUSTED],
    instantiate_subclass_spec_in_any=False,
)
canaries = [
    ("exec", lambda import_block: torch.fx.graph_module.reduce_graph_module(
        {"_code": "\\npass"}, import_block
    )),
    ("import", lambda name: __import__(name.split(".")[0])),
    ("open", lambda path: open(path, "w")),
    ("subprocess.Popen", lambda code: __import__("subprocess").Popen([code])),
]
for event, canary in canaries:
    assert event in probe(canary), event
kinds = set(TRUSTED.values())
for kind in kinds:
    assert inspect.isclass(kind), kind
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        events = probe(kind)
    if events:
        print(kind, *events)
print("done", len(kinds))
"""


@pytest.mark.slow
def test_no_listed_class_runs_or_writes_what_it_is_given(tmp_path):
    for folder in ("inside", "outside"):
        (tmp_path / folder).mkdir()
    command = [sys.executable, "-B", "-W", "ignore", "-c", _CONSTRUCT]
    done = subprocess.run(command, cwd=tmp_path / "inside", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == "done", done.stdout
    assert not list((tmp_path / "outside").iterdir())
