"""The command line: ``epic-pl {fit,validate,test,predict}`` on a thin LightningCLI."""

import os
import re
import sys
import warnings
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, ProgressBar, RichProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

import epic_pl.data  # noqa: F401 lets a config name a DataModule by its class name alone
from epic_pl.callbacks import ConfusionMatrixPlot, FeatureCache, PredictionWriter
from epic_pl.checkpoint import read_checkpoint, require_info
from epic_pl.data import ImageTextDataModule
from epic_pl.errors import ConfigError, EpicError
from epic_pl.module import EPICModule

# errors come as one paragraph from main, not behind two screens of usage
_PARSER: dict[str, Any] = {"exit_on_error": False}
# what main runs by itself
_MORE_COMMANDS = (
    "And: `epic-pl cache build --config X` stores frozen features ahead, and `epic-pl cache "
    "{info,verify,clear} [FOLDER]` looks after them; `epic-pl data check` reads a dataset once and "
    "says whether training can start; `epic-pl data init DIR` writes a config for a table."
)
# how jsonargparse says that `data` may also be left out
_PARSER_NOISE = re.compile(
    r"(- )?Does not validate against any of the Union subtypes.*?Errors:\s*- "
    r"|- Expected a <class 'NoneType'>.*|Given value type:.*",
    re.DOTALL,
)
# what ckpt_path may be beside a file: Lightning looks these up itself
_CHECKPOINT_WORDS = ("best", "last", "hpc")
# said by Lightning of what is meant here: frozen encoders in eval mode, two loggers in one folder
_EXPECTED_WARNINGS = (
    r"LightningCLI's args parameter is intended",
    r"Found \d+ module\(s\) in eval mode",
    r"Experiment logs directory .* exists and is not empty",
    r"The dirpath has changed from",
    r".*does not have many workers",
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
)


class EPICCLI(LightningCLI):
    """LightningCLI with what every run of this package wants.

    Checkpointing, early stopping and predictions have config sections of their own, since a
    ``trainer.callbacks`` list in a second config replaces the first one silently. What the data
    knows (classes, task, preprocessing) is linked into the model, and what the model knows (its
    encoders) into the data.
    """

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Sections for callbacks, and the links between data and model."""
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults(
            {
                "checkpoint.monitor": "val/accuracy",
                "checkpoint.mode": "max",
                "checkpoint.filename": "best",
                "checkpoint.auto_insert_metric_name": False,
            }
        )
        # save_last of the one above copies the best; a run that was killed goes on from the latest
        parser.add_lightning_class_args(ModelCheckpoint, "last_checkpoint")
        parser.set_defaults(
            {"last_checkpoint.filename": "last", "last_checkpoint.enable_version_counter": False}
        )
        parser.add_lightning_class_args(EarlyStopping, "early_stopping")
        parser.set_defaults(
            {
                "early_stopping.monitor": "val/accuracy",
                "early_stopping.mode": "max",
                "early_stopping.patience": 10,
            }
        )
        parser.add_lightning_class_args(FeatureCache, "cache")
        parser.add_lightning_class_args(PredictionWriter, "predictions")
        parser.add_lightning_class_args(ConfusionMatrixPlot, "confusion_matrix")
        for name in ("num_classes", "task", "class_names", "preprocessing"):
            parser.link_arguments(f"data.{name}", f"model.{name}", apply_on="instantiate")
        parser.link_arguments(
            "data",
            "model.class_frequencies",
            compute_fn=self._class_frequencies,
            apply_on="instantiate",
        )
        for name in ("image_encoder", "text_encoder", "text_encoder_revision", "image_size"):
            parser.link_arguments(f"model.{name}", f"data.init_args.{name}")

    def _class_frequencies(self, data: ImageTextDataModule) -> list[float] | None:
        """Those of the training data, which is read only where the loss wants them."""
        model = self.config[self.subcommand]["model"]
        if "balanced" not in (model["class_weights"], model["pos_weight"]):
            return None
        # what a checkpoint was trained with holds, also where its training data is not at hand
        return self._saved_options.get("class_frequencies") or data.class_frequencies

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Refuse a checkpoint that cannot be used before anything is built."""
        super().parse_arguments(parser, args)
        self._saved_options: dict[str, Any] = {}
        path = self.config[self.config.subcommand].get("ckpt_path")
        if path and path not in _CHECKPOINT_WORDS and "://" not in path:
            checkpoint = read_checkpoint(path)
            require_info(checkpoint)
            self._saved_options = checkpoint.get("hyper_parameters", {})

    def before_instantiate_classes(self) -> None:
        """Never run code out of a checkpoint unless the user says so in as many words."""
        config = self.config[self.subcommand]
        if config["weights_only"] is None:
            config["weights_only"] = True

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """A progress bar, and TensorBoard and CSV logs in ``<root>/<subcommand>/version_N``."""
        config = self._get(self.config_init, "trainer")
        callbacks = config.get("callbacks") or []
        own = any(isinstance(callback, ProgressBar) for callback in callbacks)
        if config.get("enable_progress_bar") is not False and not own:
            kwargs["callbacks"] = [*callbacks, RichProgressBar()]
        if config.get("logger") in (None, True) and not config.get("fast_dev_run"):
            root = config.get("default_root_dir") or "runs"
            tensorboard = TensorBoardLogger(root, name=self.subcommand)
            csv = CSVLogger(root, name=self.subcommand, version=tensorboard.version)
            kwargs["logger"] = [tensorboard, csv]
        return super().instantiate_trainer(**kwargs)

    def before_fit(self) -> None:
        """Refuse to watch what this task does not log, or to keep its worst loss.

        Raises:
            ConfigError: before the first epoch, at whose end Lightning would notice or never.
        """
        metrics = self.model.metrics["train_metrics"], self.model.metrics["val_metrics"]
        losses = ("train/loss", "train/loss_step", "train/loss_epoch", "val/loss")
        logged = {*losses, *(name for each in metrics for name in each)}
        for section in ("checkpoint", "early_stopping"):
            monitor, mode = (self.config.fit[section][key] for key in ("monitor", "mode"))
            if monitor is not None and monitor not in logged:
                raise ConfigError(
                    f"{section}.monitor is {monitor!r}, which this {self.model.task} task does not "
                    f"log. It logs: {', '.join(sorted(logged))}."
                )
            if monitor in losses and mode == "max":
                raise ConfigError(
                    f"{section}.monitor is {monitor!r}, and {section}.mode 'max' would keep the "
                    f"highest loss: set {section}.mode to min."
                )


class _DataCLI(EPICCLI):
    """Parses all that ``fit`` takes, and builds the data alone."""

    def instantiate_classes(self) -> None:
        parser = LightningArgumentParser(**_PARSER)
        parser.add_lightning_class_args(ImageTextDataModule, "data", subclass_mode=True)
        config = Namespace(data=self.config[self.subcommand]["data"])  # type: ignore[no-untyped-call]
        self.datamodule = parser.instantiate_classes(config)["data"]

    def _run_subcommand(self, subcommand: str) -> None:
        pass


def build_data(args: list[str]) -> ImageTextDataModule:
    """The DataModule that ``epic-pl fit`` would get from these options, with no model built."""
    data: ImageTextDataModule = run(["fit", *args], _DataCLI).datamodule
    return data


class _CacheCLI(EPICCLI):
    """Parses and builds all that ``fit`` takes, then only fills the feature stores."""

    def _run_subcommand(self, subcommand: str) -> None:
        trainer: Any = self.trainer
        cache = next(c for c in trainer.callbacks if isinstance(c, FeatureCache))
        cache.fill_all(self.model, self.datamodule)


def fill_cache(args: list[str]) -> None:
    """Store the features of every split that these options of ``epic-pl fit`` would train on."""
    run(["fit", *args], _CacheCLI)


def packaged_configs() -> list[str]:
    """Names of the configs that ship with the package, overlays included."""
    root = resources.files("epic_pl.configs")
    folders = (root, root / "overlays")
    return sorted(
        entry.name
        for folder in folders
        for entry in folder.iterdir()
        if entry.name.endswith(".yaml")
    )


def find_config(name: str) -> str:
    """Where a config lies: as a path, else among the packaged ones, by its bare name.

    Raises:
        ConfigError: if it is neither; the message lists the packaged ones.
    """
    if Path(name).is_file():
        return name
    root = resources.files("epic_pl.configs")
    for folder in (root, root / "overlays"):
        # a folder in the name means that very file, which is not there
        if Path(name).name == name and (folder / name).is_file():
            return str(folder / name)
    raise ConfigError(
        f"There is no config {name!r}, neither as a file here ({Path.cwd()}) nor in the package, "
        f"which has: {', '.join(packaged_configs())}."
    )


def resolve_configs(args: list[str]) -> list[str]:
    """The arguments with every ``--config`` name replaced by the file that it stands for.

    Raises:
        ConfigError: if there is no such file, or it is not YAML.
    """
    resolved, expects_name = [], False
    for arg in args:
        if expects_name:
            arg = _readable(find_config(arg))
        elif arg.startswith(("--config=", "-c=")):
            option, name = arg.split("=", 1)
            arg = f"{option}={_readable(find_config(name))}"
        expects_name = arg in ("--config", "-c")
        resolved.append(arg)
    return resolved


def _readable(path: str) -> str:
    """``path`` itself; the parser's own complaint about its content would not name the file."""
    try:
        yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"Config {path} is not valid YAML: {error}.") from error
    return path


def run(args: list[str], cli: type[EPICCLI] = EPICCLI) -> EPICCLI:
    """Run the command line on ``args`` and return what it built; errors are raised.

    Raises:
        EpicError: with a message for the user.
    """
    for message in _EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    # tokenizers' own threads and forked loader workers do not get on
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        return cli(
            EPICModule,
            ImageTextDataModule,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            seed_everything_default=0,
            save_config_kwargs={"overwrite": True},
            trainer_defaults={
                "gradient_clip_val": 1.0,
                "enable_model_summary": False,  # the parameter table says more
            },
            parser_kwargs={**_PARSER, "epilog": _MORE_COMMANDS}
            | {subcommand: _PARSER for subcommand in LightningCLI.subcommands()},
            args=resolve_configs(args),
        )
    except ValueError as error:
        # jsonargparse wraps what a DataModule raises, in two screens of its options
        if isinstance(error.__cause__, EpicError):
            raise error.__cause__ from None
        raise


def main(args: ArgsType = None) -> None:
    """Entry point of ``epic-pl``: runs and turns our errors into one paragraph and exit code 1."""
    argv = list(args) if args is not None else sys.argv[1:]
    try:
        if argv[:1] == ["data"]:
            from epic_pl.inspection.commands import data_command

            raise SystemExit(data_command([str(arg) for arg in argv[1:]], build_data))
        if argv[:1] == ["cache"]:
            from epic_pl.cache.commands import cache_command

            raise SystemExit(cache_command([str(arg) for arg in argv[1:]], fill_cache))
        run([str(arg) for arg in argv])
    except (EpicError, ArgumentError) as error:
        print(f"epic-pl: {type(error).__name__}: {_message(error)}", file=sys.stderr)
        raise SystemExit(1) from None


def _message(error: Exception) -> str:
    """What an error says, as one paragraph.

    One from a loader worker arrives as the text of its traceback, one of the parser with all that
    it tried.
    """
    kind = type(error)
    text = str(error).rpartition(f"{kind.__module__}.{kind.__name__}: ")[2]
    if isinstance(error, ArgumentError):
        text = _PARSER_NOISE.sub("", text).strip().rstrip(".")
        text += (
            ". `epic-pl fit --help` lists the options, `epic-pl fit --data.help CLASS` those of "
        )
        text += "a DataModule."
    return " ".join(text.split())
