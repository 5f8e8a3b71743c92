"""The real command line, in this process, from a folder that is not the project's.

Bad input ends in one paragraph that names the culprit and the way out.
"""

import csv
import inspect
import io
import multiprocessing
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import tiny_runs
from epic_pl.cli.main import main
from epic_pl.module import EPICModule
from epic_pl.module.checkpoint_io import read_checkpoint
from epic_pl.run.epic_cli import build, parse, run
from epic_pl.utils.config_files import packaged, packaged_configs
from epic_pl.utils.errors import CheckpointError, ConfigError, EpicError

pytestmark = pytest.mark.usefixtures("workdir")


BY_ACCURACY = "--checkpoint.monitor=val/accuracy"


@pytest.fixture(scope="session")
def fitted(tmp_path_factory, tiny_vit_dir, tiny_tokenizer_dir):
    """Where one ``epic-pl fit`` has left its files: config, data and runs."""
    root = tmp_path_factory.mktemp("fitted")
    tiny_runs.table(root / "data")
    tiny_runs.table_config(root / "data", tiny_vit_dir, tiny_tokenizer_dir)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr("sys.argv", ["epic-pl"])
        options = ["--config", str(root / "data" / "tiny.yaml"), "--model.method.hub_width", "6"]
        run(["fit", *options, BY_ACCURACY])
    return root


@pytest.fixture
def config(fitted):
    return str(fitted / "data" / "tiny.yaml")


@pytest.fixture
def best(fitted):
    return str(fitted / "runs" / "fit" / "version_0" / "checkpoints" / "best.ckpt")


def _refused(args, capsys):
    """What a refused command line leaves on stderr: one paragraph, or the parser's list."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main(args)
    assert caught.value.code == 1
    lines = capsys.readouterr().err.splitlines()
    # Lightning's own remarks (seed, devices) may stand above it
    (start,) = [index for index, line in enumerate(lines) if line.startswith("epic-pl: ")]
    said = lines[start:]
    assert len(said) == 1 or "ArgumentError" in said[0], said
    assert not any("Traceback" in line for line in lines)
    return "\n".join(said)


# ------------------------------------------------------------------ fit, test, predict


def test_fit_leaves_logs_config_and_checkpoints(fitted):
    root = fitted / "runs" / "fit" / "version_0"
    for name in ("config.yaml", "checkpoints/best.ckpt", "checkpoints/last.ckpt"):
        assert (root / name).is_file()
    (events,) = root.glob("events.out.tfevents*")
    log = EventAccumulator(str(events))
    log.Reload()
    assert {"val/accuracy", "val/loss", "train/loss_step"} <= set(log.Tags()["scalars"])
    with (root / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows if row["val/accuracy"]] == ["0", "1"]
    assert [row["step"] for row in rows if row["train/loss_step"]] == list("012345")


def test_fit_keeps_the_last_epoch_or_the_best_by_a_metric_and_says_so(config, workdir, caplog):
    options = ["--trainer.max_epochs=1", "--trainer.default_root_dir=told"]
    loss = ["--checkpoint.monitor=val/loss", "--checkpoint.mode=min"]
    kinds = (
        (loss, "best", r", the best epoch, val/loss \d\.\d+"),
        ([], "last", r", the last epoch, val/accuracy \d+\.\d%"),
    )
    for version, (monitor, name, score) in enumerate(kinds):
        with caplog.at_level("INFO"):
            cli = run(["fit", "--config", config, *options, *monitor])
        path = f"told/fit/version_{version}/checkpoints/{name}.ckpt"
        assert re.search(rf"Kept {path}{score}:", caplog.text)
        assert "GPU available" in caplog.text  # Lightning's messages, but no advertisements
        assert "Tip: " not in caplog.text
        assert Path(cli.kept) == workdir / path
        names = {f"{name}.ckpt", "last.ckpt"}
        assert {each.name for each in Path(path).parent.iterdir()} <= names
    assert torch.load(cli.kept, weights_only=True)["epoch"] == cli.trainer.max_epochs - 1
    before = read_checkpoint(cli.kept)
    again = ["--trainer.fast_dev_run=1", f"--last_checkpoint.dirpath={Path(cli.kept).parent}"]
    assert run(["fit", "--config", config, *again]).kept == ""
    assert read_checkpoint(cli.kept)["global_step"] == before["global_step"]
    nothing = ["--trainer.max_epochs=0", "--trainer.default_root_dir=nothing"]
    assert run(["fit", "--config", config, *nothing]).kept == ""


def test_runs_that_start_at_the_same_moment_have_folders_of_their_own(config, workdir):
    given = ["fit", "--config", config, "--trainer.max_epochs=1"]
    clis = [parse([*given, f"--seed_everything={seed}"]) for seed in (0, 1)]
    for cli in clis:
        cli.build()
    assert not (workdir / "runs").exists()  # others build a trainer and run nothing
    for cli in clis:
        cli.execute()
    for seed, cli in enumerate(clis):
        folder = workdir / "runs" / "fit" / f"version_{seed}"
        assert {Path(logger.log_dir) for logger in cli.trainer.loggers} == {
            folder.relative_to(workdir)
        }
        assert yaml.safe_load((folder / "config.yaml").read_text())["seed_everything"] == seed
        with (folder / "metrics.csv").open() as file:
            assert len({row["epoch"] for row in csv.DictReader(file)}) == 1
        assert len(list(folder.glob("events.out.tfevents*"))) == 1
        assert Path(cli.kept).parent == folder / "checkpoints"


@pytest.mark.slow
def test_ranks_that_lightning_starts_share_the_folder_of_a_run(config, workdir):
    ddp = ["--trainer.strategy=ddp", "--trainer.devices=2", "--trainer.max_epochs=1"]
    command = [sys.executable, "-m", "epic_pl", "fit", "--config", config, *ddp]
    runs = [subprocess.Popen([*command, f"--seed_everything={seed}"]) for seed in (0, 1)]
    assert [run.wait() for run in runs] == [0, 0]
    folders = sorted((workdir / "runs" / "fit").iterdir())
    assert [folder.name for folder in folders] == ["version_0", "version_1"]
    for folder in folders:
        assert (folder / "checkpoints" / "last.ckpt").is_file()
    seeds = [yaml.safe_load((f / "config.yaml").read_text())["seed_everything"] for f in folders]
    assert sorted(seeds) == [0, 1]


def test_untrained_weights_are_refused_and_the_newest_run_is_named(config, best, fitted, capsys):
    said = _refused(["test", "--config", config], capsys)
    assert re.search("There is no best.ckpt or last.ckpt in runs/.* run `epic-pl fit` first", said)
    assert "--ckpt_path" in said
    said = _refused(["test", "--config", config, "--ckpt_path", "bset"], capsys)
    assert said.endswith("There is no checkpoint at 'bset'.")
    runs = f"--trainer.default_root_dir={fitted / 'runs'}"
    said = _refused(["test", "--config", config, runs], capsys)
    assert f"add --ckpt_path best, which is {best}" in said


def test_weights_of_a_warm_start_are_tested_unless_another_checkpoint_replaces_them(
    config, best, capsys
):
    options, gone = ["--config", config, "--model.method.hub_width", "6"], "--model.warm_start=gone"
    warm, tested = (
        run(["validate", *options, *given]).trainer.callback_metrics["val/loss"]
        for given in (["--model.warm_start", best], [gone, "--ckpt_path", best])
    )
    assert warm == tested
    assert "'gone'" in _refused(["fit", *options, gone], capsys)


def test_a_checkpoint_holds_options_and_data_facts_as_plain_types(best, tiny_vit_dir):
    checkpoint = torch.load(best, weights_only=True)
    options, info = checkpoint["hyper_parameters"], checkpoint["epic_pl"]
    assert yaml.safe_load(yaml.safe_dump([options, info])) == [options, info]
    assert options["num_classes"] == 3
    assert options["task"] == "multiclass"
    assert options["class_names"] == info["class_names"] == ["blue", "green", "red"]
    assert info["preprocessing"]["image"]["size"] == 32
    assert info["preprocessing"]["image_encoder"] == str(tiny_vit_dir)
    # every section is whole, defaults included
    assert options["method"]["init_args"]["hub_width"] == 6
    assert options["method"]["init_args"]["num_prompts"] == 2
    assert options["encoders"]["text"]["pooling"] == "auto"
    assert set(options) == set(inspect.signature(EPICModule).parameters) - {"warm_start"}


def test_encoder_options_of_the_model_reach_the_data(config, tiny_vit_dir, tiny_tokenizer_dir):
    pinned = [f"--model.encoders.{side}.revision={side}-v1" for side in ("image", "text")]
    data = build(["--config", config, *pinned, "--model.encoders.image_size=16"]).data
    assert (data.image_encoder, data.image_encoder_revision) == (str(tiny_vit_dir), "image-v1")
    assert data.text_encoder == str(tiny_tokenizer_dir)
    assert data.text_encoder_revision == "text-v1"
    assert data.image_size == 16


def test_a_folder_of_predictions_has_the_rows_of_one_file(config, best, workdir):
    predict = ["predict", "--config", config, "--ckpt_path", best]
    run([*predict, "--predictions.output", "one.parquet"])
    run([*predict, "--trainer.default_root_dir", ".", "--predictions.output", "all"])
    (one,) = workdir.rglob("one.parquet")
    assert pq.read_table("all").equals(pq.read_table(one))
    with pytest.raises(ConfigError, match=r"without its \.csv"):
        run([*predict, "--predictions.output", "all.csv", "--shard", "1/2"])


def test_rows_are_predicted_where_the_training_table_is_not(config, best, fitted, workdir, capsys):
    # three rows of the table without their labels, in a folder of their own
    shutil.copytree(fitted / "data", "elsewhere", ignore=shutil.ignore_patterns("table.csv"))
    with (fitted / "data" / "table.csv").open() as table, open("elsewhere/new.csv", "w") as file:
        writer = csv.DictWriter(file, ["id", "image", "text"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(list(csv.DictReader(table))[:3])
    new = ["--data.predict_table", "elsewhere/new.csv"]
    run(["predict", "--config", config, "--ckpt_path", best, *new])
    gone = [*new, "--data.table", "gone.csv"]
    run(["predict", "--config", config, "--ckpt_path", best, *gone])
    beside, alone = (
        pq.read_table(workdir / "runs" / "predict" / f"version_{n}" / "predictions.parquet")
        for n in (0, 1)
    )
    assert beside.num_rows == 3
    assert alone.equals(beside)
    # all else needs the table
    others = (["test", "--ckpt_path", best], ["fit", "--data.classes=[red,green]"])
    for command, *options in others:
        said = _refused([command, "--config", config, *options, *gone], capsys)
        assert "gone.csv does not exist" in said


# Lightning's rule, pinned: a checkpoint's options win over the command line's
def test_a_checkpoints_options_beat_the_command_line(config, best):
    args = ["--config", config, "--ckpt_path", best, "--model.method.hub_width", "16"]
    model = parse(["validate", *args, "--model.optim.lr", "0.5"]).build().module
    assert model.method.hub_width == 6
    assert model.optim.lr == 1.5e-3


@pytest.mark.parametrize("command", ["explain", "fit", "export"])
def test_other_preprocessing_than_the_checkpoints_is_refused_with_both_values(
    command, config, best, capsys
):
    model = ["--ckpt_path", best] if command == "fit" else [best]
    more = ["--int8"] if command == "export" else []
    args = [command, *model, "--config", config, "--data.max_text_tokens=4", *more]
    said = _refused(args, capsys)
    assert "trained with data.max_text_tokens 64, but this data has 4" in said


def test_a_new_training_from_such_weights_may_prepare_its_data_in_another_way(config, best):
    options = ["--data.resize=pad", "--data.clean_text=true", "--data.text_prompt=title:"]
    options += ["--model.warm_start", best, "--model.method.hub_width=6"]
    run(["fit", "--config", config, "--config", "debug.yaml", *options])


def test_the_checkpoints_preprocessing_is_used_where_nothing_else_is_said(config, best, caplog):
    content = torch.load(best, weights_only=True)
    for options in (content["hyper_parameters"], content["epic_pl"]):
        prepared = options["preprocessing"]
        prepared["image"] |= {"resize": "pad", "crop_pct": 1.0}
        prepared["text"] |= {"max_tokens": 5, "clean": True, "prompt": "a photo of a "}
    torch.save(content, "other.ckpt")
    with caplog.at_level("INFO"):
        data = run(["test", "--config", config, "--ckpt_path", "other.ckpt"]).datamodule
    assert data.preprocessing == content["epic_pl"]["preprocessing"]
    assert "data.max_text_tokens is 5, as in the checkpoint" in caplog.text


def test_best_and_last_are_those_of_the_newest_run(config, fitted, workdir, caplog):
    runs = shutil.copytree(fitted / "runs", workdir / "[runs]*")  # no pattern
    best = runs / "fit" / "version_0" / "checkpoints" / "best.ckpt"
    checkpoints = best.parent
    where = ["--config", config, f"--trainer.default_root_dir={runs}"]
    with caplog.at_level("INFO"):
        tested = parse(["test", *where, "--ckpt_path", "best"])
    assert Path(tested.config["ckpt_path"]).samefile(best)
    assert f"--ckpt_path best is {best}" in caplog.text
    of_run = parse(["predict", *where, "--ckpt_path", str(checkpoints.parent)])
    assert Path(of_run.config["ckpt_path"]) == best
    elsewhere = ["--config", config, "--ckpt_path", "last"]
    for option, folder in (
        (f"--last_checkpoint.dirpath={checkpoints}", checkpoints),
        ("--last_checkpoint.dirpath=empty", None),
        ("--trainer.default_root_dir=empty", None),
    ):
        if folder is None:
            with pytest.raises(CheckpointError, match=r"no last.ckpt in empty"):
                parse(["fit", *elsewhere, option])
        else:
            validated = parse(["validate", *elsewhere, option])
            assert validated.config["ckpt_path"] == str(folder / "last.ckpt")
    newer = runs / "fit" / "version_1" / "checkpoints" / "last.ckpt"  # keeps its last epoch
    newer.parent.mkdir(parents=True)
    newer.write_bytes((checkpoints / "last.ckpt").read_bytes())
    for word in ("best", str(runs)):
        assert parse(["test", *where, "--ckpt_path", word]).config["ckpt_path"] == str(newer)
    told = f"--checkpoint.dirpath={newer.parent}"
    apart = f"--last_checkpoint.dirpath={checkpoints}"
    for options, kept in (([], newer), ([apart], best), ([apart, BY_ACCURACY], newer)):
        tested = parse(["test", "--config", config, told, *options, "--ckpt_path", "best"])
        assert tested.config["ckpt_path"] == str(kept)


# Lightning forgets the score of another folder, so a resumed run used to keep its own best
def test_a_resumed_run_keeps_the_best_of_both_runs_wherever_it_lies(config, best, workdir):
    moved, own = workdir / "moved", workdir / "runs" / "fit" / "version_0" / "checkpoints"
    shutil.copytree(Path(best).parent, moved)
    own.mkdir(parents=True)
    (own / "best.ckpt").write_bytes(b"of another run")
    last = torch.load(moved / "last.ckpt", weights_only=True)
    (state,) = (v for k, v in last["callbacks"].items() if "Checkpoint{'monitor': 'val" in k)
    args = ["fit", "--config", config, f"--ckpt_path={moved}/last.ckpt", "--trainer.max_epochs=3"]
    args.append(BY_ACCURACY)
    for score, kept in (
        (2.0, moved / "best.ckpt"),  # which no later epoch reaches; beside the resumed one
        (2.0, Path(best)),  # or else where it was written
        (-1.0, own.parents[1] / "version_3" / "checkpoints" / "best.ckpt"),
    ):
        state["best_model_score"] = state["kth_value"] = torch.tensor(score)
        state["best_k_models"] = {best: torch.tensor(score)}
        torch.save(last, moved / "last.ckpt")
        checkpoint = run(args).trainer.checkpoint_callback
        assert Path(checkpoint.best_model_path) == kept
        assert (float(checkpoint.best_model_score) == 2) == (score == 2)
        (moved / "best.ckpt").unlink(missing_ok=True)
    assert Path(best).exists()


@pytest.mark.parametrize(
    ("epochs", "said"),
    [
        (0, "Interrupted.\n"),
        (1, "Interrupted: the same command with --ckpt_path last resumes from "),
    ],
)
def test_ctrl_c_ends_fit_with_130_and_says_how_to_go_on(
    epochs, said, config, workdir, monkeypatch, capsys
):
    step = EPICModule.training_step

    def interrupted(module, *given):
        if module.trainer.current_epoch == epochs:
            raise KeyboardInterrupt
        return step(module, *given)

    monkeypatch.setattr(EPICModule, "training_step", interrupted)
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit) as end:
            main(["fit", "--config", config])
    finally:
        signal.signal(signal.SIGINT, before)  # Lightning ignores it from then on
    assert end.value.code == 130
    last = workdir / "runs" / "fit" / "version_0" / "checkpoints" / "last.ckpt"
    assert capsys.readouterr().err.endswith(f"{said}{last}.\n" if epochs else said)
    assert last.exists() == bool(epochs)


# ------------------------------------------------------------------ configs


def test_an_unknown_config_lists_what_there_is(capsys, workdir):
    said = _refused(["fit", "--config", "fod101.yaml"], capsys)
    assert said.startswith("epic-pl: ConfigError: There is no config 'fod101.yaml'")
    assert str(workdir) in said
    assert {"food101.yaml", "openmoji.yaml", "debug.yaml"} <= set(packaged_configs())
    assert all(name in said for name in packaged_configs())
    assert said == _refused(["fit", "--config=fod101.yaml"], capsys)


@pytest.mark.parametrize(
    "args", [["fit"], ["test", "--ckpt_path=best"], ["data", "check", "--config=debug.yaml"]]
)
def test_a_command_line_without_a_config_is_told_which_there_are(args, capsys):
    said = _refused(args, capsys)
    for part in (*packaged(""), "epic-pl data init", "epic-pl fit --config openmoji.yaml"):
        assert part in said


def test_the_debug_overlay_runs_one_batch_and_leaves_nothing(config, workdir):
    cli = run(["fit", "--config", config, "--config", "debug.yaml"])
    assert cli.trainer.global_step == 1
    assert not list(workdir.rglob("*.ckpt"))
    assert not list(workdir.rglob("events.*"))


def test_the_overfit_overlay_combines_with_a_config(config):
    module = build(["--config", config, "--config", "overfit.yaml"]).module
    assert module.hparams["head"]["dropout"] == 0
    assert module.method.interaction_layers == 2  # the first config's still holds


def test_another_callbacks_list_does_not_drop_checkpoints(config, workdir):
    (workdir / "more.yaml").write_text(
        "trainer:\n  callbacks:\n    - class_path: LearningRateMonitor\n"
    )
    trainer = build(["--config", config, "--config", "more.yaml"]).trainer
    kinds = {type(callback).__name__ for callback in trainer.callbacks}
    expected = {"LearningRateMonitor", "BestCheckpoint", "EarlyStopping", "PredictionWriter"}
    assert expected <= kinds


OWN_METRIC = """
from lightning.pytorch import Callback


class Peak(Callback):
    def on_validation_epoch_end(self, trainer, module):
        module.log("val/peak", [1.0, 3.0, 2.0][module.current_epoch])
"""


def test_the_best_epoch_is_that_of_a_metric_of_the_users(config, workdir, monkeypatch):
    (workdir / "own_metric.py").write_text(OWN_METRIC)
    monkeypatch.syspath_prepend(workdir)
    (workdir / "own.yaml").write_text("trainer: {callbacks: [{class_path: own_metric.Peak}]}")
    options = ["--config", config, "--config", "own.yaml", "--trainer.max_epochs=3"]
    options += [f"--{part}.monitor=val/peak" for part in ("checkpoint", "early_stopping")]
    cli = run(["fit", *options, "--early_stopping.patience=1"])
    kept = cli.trainer.checkpoint_callback
    assert kept.best_model_score == 3
    assert torch.load(kept.best_model_path, weights_only=True)["epoch"] == 1
    assert cli.trainer.early_stopping_callback.stopped_epoch == 2


@pytest.mark.parametrize(
    ("option", "options"),
    [
        ("checkpoint.monitor", []),
        ("checkpoint.monitor", ["--trainer.check_val_every_n_epoch=2"]),
        (
            "early_stopping.monitor",
            ["--early_stopping.patience=1", "--trainer.val_check_interval=2"],
        ),
    ],
)
def test_a_metric_that_nothing_logs_ends_the_run_at_its_first_validation(
    option, options, config, capsys, workdir
):
    options = ["fit", "--config", config, f"--{option}=val/acuracy", *options]
    said = _refused(options, capsys)
    assert f"{option} is 'val/acuracy', which nothing has logged" in said
    assert "val/accuracy, val/auroc, val/f1_macro, val/loss, or let" in said
    assert not list(workdir.rglob("best.ckpt"))


# ------------------------------------------------------------------ what is refused


LAYERS = "interaction_layers is 7, but the encoders have 3 and 3 layers"
HOSTED = "pypi:all-minilm-l6-v2"


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [
        ("trainer.max_epoch", "1", ["trainer.max_epoch"]),  # no beginning of an option is one
        ("model.method.num_prompt", "2", ["model.method.num_prompt", "--help"]),
        ("model.method.hub_width", "many", ["hub_width", "--help"]),
        ("model.method.hub", "sometimes", ["sometimes", "--help"]),
        ("checkpoint.monitor", "val/loss", ["set checkpoint.mode to min"]),
        ("data.init_args.classes", "[blue, green]", ["DataError", "red"]),
        ("model.encoders.image.name", "vit_base_patch16_244", ["vit_base_patch16_244"]),
        ("model.encoders.text.name", "nobody/no-model", ["nobody/no-model", HOSTED]),
        ("model.encoders.text.name", "pypi:minilm", ["pypi:minilm", HOSTED]),
        ("model.method.interaction_layers", "7", [LAYERS]),
    ],
)
def test_an_option_that_does_not_fit_is_refused_before_training(
    option, value, named, config, capsys, workdir, monkeypatch
):
    def refuse(*_):
        raise AssertionError("training has started")

    monkeypatch.setattr(EPICModule, "training_step", refuse)
    said = _refused(["fit", "--config", config, f"--{option}", value], capsys)
    assert all(part in said for part in named)
    assert not list(workdir.rglob("*.ckpt"))


@pytest.mark.parametrize(
    "content",
    [
        "trainer: [unclosed\n",
        "a: " + "[" * 1500 + "]" * 1500,
        "a: " + "[" * 70 + "]" * 70,
        "a: &a [*a]",
        "a: &a {b: *a}",
        "a: &a [x, x, x, x]\n" + "".join(f"b{n}: &a [*a, *a, *a, *a]\n" for n in range(12)),
        "a: 2024-99-99",
        "a: !!timestamp x",
        "!!bool x",
        "a: " + "1" * 10_000,
        'a: "\\0"',
        b"a: \xff",
    ],
    ids=lambda content: repr(content[:12]),
)
def test_a_config_that_no_parser_can_read_is_one_paragraph(content, config, capsys, workdir):
    raw = content if isinstance(content, bytes) else content.encode()
    (workdir / "odd.yaml").write_bytes(raw)
    said = _refused(["fit", "--config", config, "--config", "odd.yaml"], capsys)
    assert said.startswith("epic-pl: ConfigError: odd.yaml cannot be read as YAML: ")
    assert len(said) < 300


LONG = "x" * 300  # too long a name for the disk
BELOW = "table/table.csv/x"  # a folder below a file


@pytest.mark.parametrize(
    ("args", "kind"),
    [
        (["fit", "--config", LONG], "ConfigError"),
        (["fit", "--data.init_args.table", f"{LONG}.csv"], "DataError"),
        (["fit", "--data.init_args.image_column", f"{LONG}{{id}}.png"], "DataError"),
        (["fit", "--data.init_args.image_root", LONG], "DataError"),
        (["fit", "--model.encoders.image.name", LONG], "OSError"),
        (["test", "--ckpt_path", LONG], "CheckpointError"),
        # which Python 3.13 says of any path that is no folder
        (["cache", "info", "--folder", LONG], "(OSError|CacheError)"),
        (["fit", f"--trainer.default_root_dir={BELOW}"], r"\w+Error"),
        (["data", "check", "--config=table/tiny.yaml", f"--output={BELOW}"], r"\w+Error"),
        (["data", "init", "table", f"--output={BELOW}"], r"\w+Error"),
    ],
    ids=lambda each: each if isinstance(each, str) else " ".join(each)[:40],
)
def test_a_path_that_cannot_be_is_one_paragraph(args, kind, config, fitted, workdir, capsys):
    shutil.copytree(fitted / "data", "table")
    if args[0] in ("fit", "test", "validate"):
        args = [args[0], "--config", config, *args[1:]]
    said = _refused(args, capsys)
    assert re.match(f"epic-pl: {kind}: ", said)
    assert LONG in said or BELOW in said or "table/table.csv" in said


EVIL = "\x1b[2JEVIL\x07\x9b31m"  # what a terminal obeys


@pytest.mark.parametrize(
    "args",
    [
        ["data", "init", "evil", "--output=evil.yaml"],
        ["data", "check", "--workers=1", "{config}", "{table}"],
        ["fit", "{config}", "{table}"],
        ["fit", "{config}", "--model.method.hub_width", EVIL],
        ["explain", "{best}", "{config}", "--samples", f"no{EVIL}"],
    ],
    ids=lambda args: " ".join(args[:2]),
)
def test_control_characters_of_a_table_or_option_do_not_reach_the_terminal(
    args, config, best, fitted, workdir, capsys
):
    shutil.copytree(fitted / "data", workdir / "evil")
    table = workdir / "evil" / "table.csv"
    content = table.read_text().replace(",blue,", f",blue{EVIL},")
    if "init" in args:
        content = content.replace(",label,", f",label{EVIL},")
    else:
        content = content.replace("images/train0.png", EVIL)  # which is no file
    table.write_text(content)
    given = {"{config}": f"--config={config}", "{table}": f"--data.init_args.table={table}"}
    with pytest.raises(SystemExit):
        main([given.get(arg, arg.replace("{best}", best)) for arg in args])
    shown = "".join(capsys.readouterr())
    assert "EVIL" in shown
    assert not set(EVIL[0] + EVIL[-4] + "\x07") & set(shown)
    if "init" in args:  # its comments are YAML, in which they may not be
        assert yaml.safe_load(Path("evil.yaml").read_text())


FULL = Path("/dev/full")  # on which every write fails as on a full disk


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize(
    "args",
    [
        ["predict", "--predictions.output", "{out}/p.csv"],
        ["predict", "--predictions.output", "{out}/p.parquet"],
        ["test", "--report.absence=false", "--report", "{out}"],
        ["data", "check", "--workers=1", "--output", "{out}"],
    ],
    ids=lambda args: args[0],
)
def test_a_full_disk_is_one_paragraph(args, config, best, workdir, monkeypatch, capsys):
    monkeypatch.setattr("epic_pl.utils.files.token_hex", lambda _: "x")
    out = workdir / "out"
    out.mkdir()
    (out / ".x.partial").symlink_to(FULL)
    checkpoint = [] if args[0] == "data" else ["--ckpt_path", best]
    args = [each.format(out=out) for each in args]
    said = _refused([*args, "--config", config, *checkpoint], capsys)
    assert "No space left on device" in said
    assert f"make room for {out}/" in said


def test_a_run_may_end_before_its_first_validation(config):
    cli = run(["fit", "--config", config, "--trainer.max_steps", "1"])
    assert cli.trainer.global_step == 1


class _Trap:
    """Writes a file when unpickled."""

    def __reduce__(self):
        return (open, ("pwned", "w"))


def _class(path):
    return {"class_path": path, "init_args": {"args": "touch pwned", "shell": True}}


def _ensemble(of):
    return {"class_path": "Ensemble", "init_args": {"of": of}}


TRAP = _class("trap.Trap")
METHOD = {"class_path": "EPIC", "init_args": {}}
NAMES = "name a class to build"
TRAPS = {
    "pickled code": ({"hyper_parameters": _Trap()}, "code to be run"),
    "class": ({"preprocessing": {"a": _class("subprocess.Popen")}}, "'subprocess.Popen'"),
    "method": ({"method": TRAP}, "needs the Method 'trap.Trap'"),
    "method of a library": ({"method": _class("torch.nn.Linear")}, "--import torch"),
    "class in a method": ({"method": METHOD | {"init_args": {"a": TRAP}}}, NAMES),
    "member": ({"method": _ensemble(TRAP)}, "needs the Method 'trap.Trap'"),
    "member of several": ({"method": _ensemble([METHOD, TRAP])}, "needs the Method 'trap.Trap'"),
    "member in a member": ({"method": _ensemble(_ensemble(TRAP))}, NAMES),
    "class in a member": ({"method": _ensemble(METHOD | {"init_args": {"a": TRAP}})}, NAMES),
    "no member": ({"method": _ensemble("trap.Trap")}, "is of another version"),
    "more than a method": ({"method": METHOD | {"a": 1}}, "is of another version"),
    "loss": ({"loss": TRAP}, r"trust=\['trap'\]"),
    "loss in a file": ({"loss": "trap.yaml"}, "The loss in 'trap.ckpt'|The loss in <"),
    "family": ({"encoders": {"image": {"family": "trap.Trap"}}}, "needs the Encoder 'trap.Trap'"),
    "no family": ({"encoders": {"image": {"family": ["trap.Trap"]}}}, "family .* is damaged"),
    # the parser reads strings as YAML, those in place of a section as config files, and dots as
    # sections
    "class in a string": ({"preprocessing": {"a": "{class_path: trap.Trap}"}}, "'trap.Trap'"),
    "section in a string": ({"method": "{class_path: trap.Trap}"}, "is of another version"),
    "section in a file": ({"encoders": {"image": "trap.yaml"}}, "not 'trap.yaml'"),
    "dotted method": ({"method.class_path": "trap.Trap"}, NAMES),
    "dotted family": ({"encoders.image.family": "trap.Trap"}, NAMES),
    "arguments": ({"init_args": {"method": "trap.Trap"}}, NAMES),
    "dotted arguments": ({"init_args.method": "trap.yaml"}, NAMES),
    "weights": ({"warm_start": "trap.yaml"}, "names a file of weights"),
    "older hyperparameters": ({"hparams": {"method": TRAP}}, "has hparams, which epic_pl never"),
    "older arguments": ({"module_arguments": {"method": TRAP}}, "has module_arguments"),
}
TOP = ("pickled code", "older hyperparameters", "older arguments")


@pytest.fixture
def trapped(best, workdir, monkeypatch):
    """Writes a checkpoint with a trap, and gives what is said of it."""
    monkeypatch.syspath_prepend(workdir)
    (workdir / "trap.py").write_text("open('pwned', 'w')\nclass Trap: pass\n")
    (workdir / "trap.yaml").write_text("class_path: trap.Trap\n")

    def trapped(name, path):
        content, named = TRAPS[name]
        checkpoint = torch.load(best, weights_only=True)
        if name in TOP:
            checkpoint |= content
        else:
            checkpoint["hyper_parameters"] |= content
        torch.save(checkpoint, path)
        return named

    yield trapped
    assert not (workdir / "pwned").exists()


@pytest.mark.parametrize("name", TRAPS)
def test_code_that_a_checkpoint_brings_or_names_is_refused_and_never_run(name, trapped):
    named = trapped(name, "trap.ckpt")
    for source in ("trap.ckpt", io.BytesIO(Path("trap.ckpt").read_bytes())):
        with pytest.raises(EpicError, match=named):
            EPICModule.load_from_checkpoint(source)


# "section in a file" is the one that the command line checks by itself
@pytest.mark.parametrize(
    ("subcommand", "name", "path"),
    [
        ("fit", "class in a string", "trap.ckpt"),
        ("fit", "section in a file", "trap.ckpt"),
        ("test", "pickled code", "trap.ckpt"),
        ("predict", "method", "last"),  # which means something else to Lightning
    ],
)
def test_the_command_line_reads_a_checkpoint_before_the_parser_does(
    subcommand, name, path, trapped, config, capsys
):
    named = trapped(name, path)
    said = _refused([subcommand, "--config", config, "--ckpt_path", path], capsys)
    assert "Error: " in said
    assert re.search(named, said)


@pytest.mark.parametrize("content", [{3: 1}, {"a b": {"": 1}}, {"": 2}, {"trainer": {True: 1}}])
def test_a_config_whose_keys_are_no_names_is_refused(content, config, capsys):
    Path("keys.yaml").write_text(yaml.safe_dump(content))
    said = _refused(["fit", "--config", config, "--config", "keys.yaml"], capsys)
    assert "ArgumentError: " in said


def test_a_config_names_no_class_of_the_parsers_own_denylist(config, capsys, workdir):
    callbacks = {"trainer": {"callbacks": [_class("subprocess.Popen")]}}
    Path("theirs.yaml").write_text(yaml.safe_dump(callbacks))
    said = _refused(["fit", "--config", config, "--config", "./theirs.yaml"], capsys)
    assert "Importing 'subprocess.Popen' is not allowed" in said
    assert not (workdir / "pwned").exists()


@pytest.mark.parametrize(
    ("command", "option"),
    [("fit", "model.warm_start"), ("fit", "ckpt_path"), ("test", "ckpt_path")],
)
def test_an_address_is_refused_since_lightning_would_read_it(command, option, config, best, capsys):
    address = Path(best).as_uri()
    said = _refused([command, "--config", config, f"--{option}={address}"], capsys)
    assert f"'{address}' is an address: download the file" in said


MORE = ("classes=[blue,green,red,x]", "multiclass, 4 classes: blue, green, r")


@pytest.mark.parametrize(
    ("command", "option", "now"),
    [
        ("test", "label_separator=|", "multilabel, 3 classes: blue, green, red"),
        *((command, *MORE) for command in ("fit", "predict", "explain")),
        # it may have fewer classes
        ("warm start", "classes=[red,green,blue]", "multiclass, 3 classes: red, green, blue"),
    ],
)
def test_a_checkpoint_of_another_task_or_other_classes_is_told_with_both(
    command, option, now, config, best, capsys
):
    given = ["explain", best] if command == "explain" else [command, "--ckpt_path", best]
    if command == "warm start":
        given = ["fit", "--model.method.hub_width=6", "--model.warm_start", best]
    said = _refused([*given, "--config", config, f"--data.{option}"], capsys)
    before = "(multiclass, 3 classes: blue, green, red)"
    told = f"{best} was trained on other classes {before} than the data's"
    assert f"CheckpointError: {told} ({now}" in said
    assert "give a checkpoint of this data" in said


def test_a_loss_that_is_not_finite_is_one_paragraph(config, capsys):
    options = ["--model.optim.warmup", "0", "--model.optim.lr", "1e36"]
    said = _refused(["fit", "--config", config, *options], capsys)
    assert re.search("TrainingError: The loss is nan at step .*train.*Lower model.optim.lr", said)


def test_a_corrupt_image_is_one_paragraph_also_from_a_worker(config, capsys, workdir):
    table = tiny_runs.table(workdir / "data", corrupt="val1")
    options = ["--data.init_args.table", str(table), "--data.init_args.num_workers", "1"]
    said = _refused(["fit", "--config", config, *options], capsys)
    assert said.startswith("epic-pl: DataError: Sample 'val1': Image ")
    assert str(workdir / "data" / "images" / "val1.png") in said
    assert said.count("DataError") == 1
    assert said.endswith("To go on without such images, set on_bad_sample to skip or absent.")
    assert not multiprocessing.active_children()  # which ignore SIGTERM, so that exit would wait


def test_a_folder_with_a_corrupt_image_is_predicted_without_it(config, best, capsys, workdir):
    tiny_runs.table(workdir / "data", corrupt="val1")
    options = ["--ckpt_path", best, "--data.predict_table=data/images", "--cache.level=tokens"]
    args = ["predict", "--config", config, *options, "--cache.folder=features"]
    said = _refused(args, capsys)
    assert "val1.png cannot be read" in said
    assert "set on_bad_sample to skip" in said
    run([*args, "--data.on_bad_sample=skip"])
    (path,) = workdir.rglob("predictions.parquet")
    left = {file.name for file in Path("data/images").iterdir()} - {"val1.png"}
    assert set(pq.read_table(path)["sample_id"].to_pylist()) == left


# ------------------------------------------------------------------ progress bar, help, balance


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overlay", "kind"), [("wandb.yaml", "WandbLogger"), ("mlflow.yaml", "MLFlowLogger")]
)
def test_a_tracking_service_is_added_to_the_logs_of_the_run(
    overlay, kind, config, workdir, monkeypatch, offline_wandb
):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    options = ["fit", "--config", config, "--config", overlay, "--trainer.max_epochs=1"]
    if overlay == "mlflow.yaml":  # its default needs a database driver
        options.append(f"--trainer.logger.init_args.tracking_uri=file:{workdir}/mlruns")
    trainer = run(options).trainer
    names = [type(each).__name__ for each in trainer.loggers]
    assert names == ["CSVLogger", "TensorBoardLogger", kind]
    assert (Path(trainer.log_dir) / "config.yaml").is_file()
    if overlay == "wandb.yaml":
        import wandb

        wandb.finish()  # waits until its own process has written the run
    written = {"wandb.yaml": "runs/wandb/offline-run-*/*.wandb", "mlflow.yaml": "**/val/accuracy"}
    (file,) = workdir.glob(written[overlay])
    assert file.stat().st_size > 0


def test_a_class_whose_package_is_missing_is_told(config, workdir, capsys):
    told = _refused(["fit", "--config", config, "--trainer.logger=CometLogger"], capsys)
    assert "ModuleNotFoundError: " in told
    assert "comet" in told


def test_the_progress_bar_can_be_switched_off_or_replaced(config, workdir):
    options = ["--config", config, "--config", "debug.yaml"]
    off = build([*options, "--trainer.enable_progress_bar", "false"])
    assert off.trainer.progress_bar_callback is None
    (workdir / "bar.yaml").write_text("trainer:\n  callbacks:\n    - class_path: TQDMProgressBar\n")
    own = build([*options, "--config", "bar.yaml"])
    assert type(own.trainer.progress_bar_callback).__name__ == "TQDMProgressBar"


def test_balanced_weights_come_from_the_training_rows_and_then_from_the_checkpoint(
    fitted, workdir, tiny_vit_dir, tiny_tokenizer_dir
):
    # 5 training rows: 2 blue, 2 green, 1 red
    table = tiny_runs.table(workdir / "data", train=5)
    config = tiny_runs.table_config(workdir / "data", tiny_vit_dir, tiny_tokenizer_dir)
    options = ["--config", str(config), "--trainer.max_epochs", "1"]
    cli = run(["fit", *options, "--model.loss.class_weights", "balanced"])
    weights = cli.model.loss.weights.tolist()
    assert weights == pytest.approx([5 / 6, 5 / 6, 5 / 3])
    assert cli.model.hparams["loss"]["init_args"]["class_weights"] == "balanced"
    assert cli.model.hparams["class_frequencies"] == pytest.approx([0.4, 0.4, 0.2])
    # other training rows, by which the checkpoint must not be judged anew
    rows = table.read_text()
    table.write_text(rows.replace('number 0",blue,train', 'number 0",red,train'))
    assert table.read_text() != rows
    tested = run(["test", *options, "--ckpt_path", cli.kept])
    assert tested.model.loss.weights.tolist() == weights


@pytest.mark.parametrize(
    ("args", "meant"),
    [
        ("fit --max_epochs=3", "trainer.max_epochs"),
        ("fit --data.tabel rows.csv", "data.table"),
        ("fit --data TabelDataModule", "TableDataModule"),
        ("fit --data.init_args.batchsize_per_device 3", "data.batch_size_per_device"),
        ("fit --config misspelt.yaml", "model.optim.lr"),
        ("fit --model.method epik", "EPIC"),
        ("fit --zzzz 1", None),
        # what is inside a list, or of a class that another one replaces, is not blamed
        ("fit --config outside.yaml --model.method LoRA --model.method.rnk 2", "model.method.rank"),
        ("fit --model.method Ensemble --model.method.of epik", "EPIC"),
        (
            "fit --model.method Ensemble --model.method.of LoRA --model.method.of.rnk 2",
            "model.method.of.rank",
        ),
        (
            "fit --model.method Ensemble --model.method.of [EPIC,Parts] --model.optim.ler 1",
            "model.optim.lr",
        ),
        ("fit --data.help TabelDataModule", "TableDataModule"),
        ("fit --model.lr 0.1", "model.optim.lr"),
        ("explain x --data.tabel x", "data.table"),
    ],
)
def test_a_misspelt_option_or_value_is_told_with_the_one_that_was_meant(
    args, meant, config, workdir, told
):
    (workdir / "misspelt.yaml").write_text("model: {optim: {ler: 0.1}}")
    outside = "trainer: {callbacks: [{class_path: LearningRateMonitor}]}"
    (workdir / "outside.yaml").write_text(outside)
    command, *options = args.split()
    model = options[:1] if command in ("explain", "export") else []
    config = [] if command == "data" else ["--config", config]
    code, _, error = told(command, *model, *config, *options[len(model) :])
    assert code == 1
    assert error.count("Did you mean") == (meant is not None)
    assert meant is None or f"Did you mean {meant!r}?" in error


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ("fit --trainer.max_epochs drei", "trainer.max_epochs.*Expected a <class 'int'>.*: drei"),
        ("fit --config words.yaml", "optim.lr.*Expected a <class 'float'>.*: fast"),
        ("fit --data.resize padd", r"resize.*Expected a typing.Literal\[.*'pad'.*: padd"),
        ("tune --trials zwei", "trials.*PositiveInt: invalid literal .*'zwei'"),
        ("compare --splits=x", "--splits: ignored explicit argument 'x'"),
        ("explain --split tset", r"split.*Expected a typing.Literal\['val', 'test'.*: tset"),
        ("fit --checkpoint 3", "Unable to load config '3'"),
        ("fit --model.class_names 3", r"class_names.*Expected a.*list.*: 3"),
    ],
)
def test_a_wrong_value_is_told_with_its_option_and_what_is_expected(args, said, config, told):
    Path("words.yaml").write_text("model: {init_args: {optim: {lr: fast}}}")
    command, *options = args.split()
    code, _, error = told(command, "--config", config, *options)
    assert code == 1
    assert re.search(said, error, re.DOTALL)
    assert "`epic-pl COMMAND --help` lists the options" in error


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["accelerator=gpuu"], "invalid accelerator name: `accelerator='gpuu'`"),
        (["devices=0"], "`Trainer(devices='0')` value is not a valid input"),
        (["val_check_interval=1000"], "`val_check_interval` (1000) must be less than or equal"),
        (["check_val_every_n_epoch=0"], "a count is 0"),
    ],
)
def test_an_option_that_lightning_refuses_is_one_paragraph(options, said, config, capsys):
    told = _refused(["fit", "--config", config, *(f"--trainer.{each}" for each in options)], capsys)
    assert "ConfigError: Lightning's Trainer refuses this: " in told
    assert said in told
    assert "`epic-pl fit --help` for --trainer.*" in told


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="this system has no /proc")
@pytest.mark.parametrize("root", ["/proc/none", "/proc/self/cmdline"])
def test_a_folder_of_runs_that_cannot_be_made_is_told(root, config, capsys):
    told = _refused(["fit", "--config", config, f"--trainer.default_root_dir={root}"], capsys)
    assert f"ConfigError: trainer.default_root_dir: the log cannot be written to {root}/fit" in told
    assert "Choose another folder." in told


def test_an_error_of_other_code_keeps_its_traceback(config, monkeypatch):
    monkeypatch.setattr(EPICModule, "training_step", lambda *_: int("no number"))
    with pytest.raises(ValueError, match="invalid literal"):
        run(["fit", "--config", config])


@pytest.mark.parametrize("word", ["best", "last"])
def test_the_newest_run_of_another_table_is_not_taken(word, config, workdir, fitted, capsys):
    shutil.copytree(fitted / "runs", workdir / "runs")
    other = workdir / "other.csv"
    shutil.copy(fitted / "data" / "table.csv", other)
    options = [f"--data.init_args.table={other}", f"--data.init_args.image_root={fitted / 'data'}"]
    told = _refused(["test", "--config", config, *options, "--ckpt_path", word], capsys)
    assert "was trained on other data" in told
    assert "give a checkpoint" in told
