"""The command line: ``epic-pl {fit,validate,test,predict}`` on a thin LightningCLI."""

import json
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import is_dataclass
from inspect import signature
from itertools import count
from pathlib import Path
from traceback import walk_tb
from typing import Any, NamedTuple, cast, get_type_hints

from jsonargparse import ArgumentError, Namespace, set_parsing_settings
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer, callbacks, seed_everything
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import (
    disable_possible_user_warnings,
    rank_zero_info,
)
from rich.console import Console
from rich.table import Column, Table

import epic_pl.data  # noqa: F401 lets a config name a DataModule by its class name alone
from epic_pl.data import ImageTextDataModule
from epic_pl.data.preprocessing import column_preprocessing
from epic_pl.module import EPICModule
from epic_pl.module.callbacks import (
    BestCheckpoint,
    FeatureCache,
    LastCheckpoint,
    PredictionWriter,
)
from epic_pl.module.callbacks.checkpoints import KINDS, find_checkpoint, require_logged
from epic_pl.module.callbacks.run_record import RunRecord
from epic_pl.module.checkpoint import check_classes, input_options, require_info
from epic_pl.module.checkpoint_io import (
    MADE_BY_DATA,
    DurableCheckpointIO,
    newest_checkpoint,
    read_checkpoint,
)
from epic_pl.module.config import as_config
from epic_pl.module.metrics import metric_text
from epic_pl.module.parameters import ParameterTable
from epic_pl.nn.encoders import Encoder
from epic_pl.report.writer import ReportWriter
from epic_pl.run.error_text import MENDABLE
from epic_pl.run.progress_bar import ProgressBar
from epic_pl.run.suggestions import suggestion
from epic_pl.utils.config_files import read_yaml, resolve_configs
from epic_pl.utils.errors import (
    ConfigError,
    counted,
    first_line,
    printable,
)
from epic_pl.utils.plugins import find_class, load_plugins
from epic_pl.utils.validate import check_writable

__all__ = ["EPICCLI", "Built", "build", "run"]

# errors are printed as one paragraph, without the long usage message
PARSER_OPTIONS: dict[str, Any] = {
    "exit_on_error": False,
    "usage": "epic-pl COMMAND --config NAME [--config OVERLAY] [--OPTION VALUE ...]",
}
_SHORT = {"--report": "--report.folder", "--shard": "--predictions.shard"}


class EarlyStopping(callbacks.EarlyStopping):
    """Lightning's early stopping; it is off without a patience."""

    def __init__(self, monitor: str, patience: int | None = None, **kwargs: Any) -> None:
        super().__init__(monitor, patience=sys.maxsize if patience is None else patience, **kwargs)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop after the epoch if it is time; a missing metric is a ConfigError."""
        if self.patience < sys.maxsize:
            require_logged(trainer, "early_stopping.monitor", self.monitor)
        super().on_train_epoch_end(trainer, pl_module)


_SECTIONS: dict[str, type[Callback]] = {
    "checkpoint": BestCheckpoint,
    "last_checkpoint": LastCheckpoint,
    "early_stopping": EarlyStopping,
    # these two check that they can write, so they come before the cache is filled
    "predictions": PredictionWriter,
    "report": ReportWriter,
    "cache": FeatureCache,
}
_DEFAULTS = {
    "checkpoint.mode": "max",
    "checkpoint.filename": "best",
    "checkpoint.auto_insert_metric_name": False,
    "early_stopping.monitor": "val/accuracy",
    "early_stopping.mode": "max",
    # require_logged checks it; a run may end before its first validation
    "early_stopping.strict": False,
}


class Built(NamedTuple):
    """The module, data and trainer of a command line."""

    module: EPICModule
    data: ImageTextDataModule
    trainer: Trainer


class _Parser(LightningArgumentParser):
    """A parser without abbreviated options; jsonargparse also parses nested classes with it."""

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **{"allow_abbrev": False, **options})

    def format_help(self, *given: Any) -> str:
        """The help without the markup of docstrings."""
        text = re.sub(r":[\w:]+:`~?|``", "`", super().format_help(*given))
        return re.sub(r"(?:\.\.\s+)?\b(\w+)::(?=\s)", r"\1:", text)


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Raise what a user can mend in place of an error that wraps it or that Lightning raises.

    Raises:
        EpicError: a ConfigError if Lightning's own code refuses an option, or what jsonargparse
            wraps in a long list of a class's options. Errors of other code stay.
    """
    try:
        yield
    except (MisconfigurationException, TypeError, ValueError, ZeroDivisionError) as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, MENDABLE):
            cause = cause.__cause__
        *_, (frame, _) = walk_tb(error.__traceback__)
        if cause is None and frame.f_globals["__name__"].startswith("lightning."):
            way = "See `epic-pl fit --help` for --trainer.*, and `epic-pl doctor` for devices."
            what = "a count is 0" if isinstance(error, ZeroDivisionError) else first_line(error)
            cause = ConfigError(f"Lightning's Trainer refuses this: {what}. {way}")
        if cause is not None:
            raise cause from None
        raise


class EPICCLI(LightningCLI):
    """LightningCLI with this package's callbacks, loggers and links.

    Callbacks have their own config sections, since a ``trainer.callbacks`` list in a second config
    silently replaces the first one. Classes, task and preprocessing are linked from the data to the
    model, and encoders from the model to the data.

    Its constructor only parses; :meth:`build` and :meth:`execute` follow.

    Args:
        command: the trainer's method that will run.
        words: options of the command line.
    """

    def __init__(self, command: str, words: Sequence[str]) -> None:
        self.command = command
        super().__init__(
            EPICModule,
            ImageTextDataModule,
            parser_class=_Parser,
            subclass_mode_model=True,
            subclass_mode_data=True,
            run=False,
            auto_configure_optimizers=False,
            seed_everything_default=0,
            save_config_callback=RunRecord,
            save_config_kwargs={"overwrite": True},
            trainer_defaults={
                "gradient_clip_val": 1.0,
                "enable_model_summary": False,  # the parameter table says more
                "callbacks": [ParameterTable()],
            },
            parser_kwargs=PARSER_OPTIONS,
            args=list(words),
        )
        self.config["seed_everything"] = self._seed

    @_plain_errors()
    def build(self) -> Built:
        """Build data, module and trainer."""
        if (seed := self.config["seed_everything"]) is not False:
            seed = seed_everything(None if seed is True else seed, workers=True)
            self.config["seed_everything"] = seed
        super().instantiate_classes()
        return Built(self.model, self.datamodule, self.trainer)

    @_plain_errors()
    def execute(self) -> None:
        """Run the command.

        Raises:
            KeyboardInterrupt: upon Ctrl-C, which Lightning turns into an exit; it says what to do.
            ConfigError: if the folder cannot be made, or Lightning itself refuses an option.
        """
        options = {name: self.config_init[name] for name in self._trainer_options}
        self._claim_folder()
        try:
            if self.command == "fit":
                self._check_modes()
            shows = options.get("verbose")
            options |= {"verbose": False} if shows else {}
            run = getattr(self.trainer, self.command)
            results = run(self.model, datamodule=self.datamodule, **options)
            if self.command == "fit":
                self._tell_kept()
            elif shows and self.trainer.is_global_zero:
                show_scores(self.model, results)
        except SystemExit as end:
            if not isinstance(end.__context__, KeyboardInterrupt):
                raise
            saved = self.command == "fit" and self.config_init["last_checkpoint"].path
            if saved and saved.is_file():
                way = f"the same command with --ckpt_path last resumes from {saved}."
                raise KeyboardInterrupt(way) from None
            raise end.__context__ from None

    def instantiate_classes(self) -> None:
        """Nothing, since the constructor would build them."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add sections for callbacks, links between data and model, and the command's options."""
        skip = set(LightningCLI.subcommands()[self.command])
        self._trainer_options = parser.add_method_arguments(Trainer, self.command, skip=skip)
        for section, kind in _SECTIONS.items():
            parser.add_lightning_class_args(kind, section)
        parser.set_defaults(_DEFAULTS)
        link, model = parser.link_arguments, "model.init_args"
        link("data", f"{model}.class_frequencies", self._class_frequencies, "instantiate")
        # in this order, so that missing rows are told before an encoder's files are read
        for name in ("num_classes", "task", "class_names"):
            link(f"data.{name}", f"{model}.{name}", apply_on="instantiate")
        link("data", f"{model}.preprocessing", self._preprocessing, "instantiate")
        encoders, data = f"{model}.encoders", "data.init_args"
        for side in ("image", "text"):
            link(f"{encoders}.{side}.name", f"{data}.{side}_encoder")
            link(f"{encoders}.{side}.revision", f"{data}.{side}_encoder_revision")
        link(f"{encoders}.image_size", f"{data}.image_size")

    def _class_frequencies(self, data: ImageTextDataModule) -> list[float] | None:
        """Class frequencies of the training data, which is read only for fit or weighted losses.

        Raises:
            CheckpointError: if the checkpoint is of another task or other classes.
        """
        if saved := self._saved_options:
            theirs = saved.get("task"), saved.get("class_names")
            check_classes(theirs, (data.task, data.class_names), self.config["ckpt_path"])
        loss = self.config["model"]["init_args"]["loss"]
        if self.command != "fit" and "balanced" not in vars(loss["init_args"]).values():
            return None
        # a checkpoint's frequencies take precedence; its training data may not be available
        return saved.get("class_frequencies") or data.class_frequencies

    def _preprocessing(self, data: ImageTextDataModule) -> dict[str, Any]:
        """The data's preprocessing, with the columns as a checkpoint knows them."""
        if saved := self._saved_options:
            data.read_columns_as(column_preprocessing(saved.get("preprocessing")))
        return data.preprocessing

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, and refuse an unusable checkpoint before anything is built."""
        words = list(cast(Sequence[str], args))
        try:
            self.config = parser.parse_args(words)
        except ArgumentError as error:
            said = str(error).rstrip(".")
            raise ArgumentError(None, f"{said}.{suggestion(words, parser)}") from error
        self._saved_options: dict[str, Any] = {}
        config = self.config
        # the constructor would seed the caller's generators although it builds nothing
        self._seed, config["seed_everything"] = config["seed_everything"], False
        for side in config["model"]["init_args"]["encoders"].values():
            if isinstance(side, Namespace) and side.family:  # checkpoints may name it, too
                find_class(Encoder, side.family)
        if path := self._checkpoint():
            config["ckpt_path"] = path
            checkpoint = read_checkpoint(path)  # before the parser builds what it names
            require_info(checkpoint, path)
            self._saved_options = checkpoint.get("hyper_parameters", {})
            _check_sections(self._saved_options)
            _prepare_alike(config["data"], self._saved_options)
            if self.command == "predict":
                _name_classes(config["data"], self._saved_options)
            options = self._saved_options.items()
            read = {name: value for name, value in options if name not in MADE_BY_DATA}
            self.config = parser.parse_object({"model": read}, config)

    def _checkpoint(self) -> str | None:
        """The path of the checkpoint that the options name; None for a new training."""
        path: str | None = self.config.get("ckpt_path")
        fits = self.command == "fit"
        if not path and fits:
            return None
        # other commands do not train, so that weights to start from are those to use
        path = path or self.config["model"]["init_args"]["warm_start"]
        if not path:
            best = self._newest("best")
            raise ConfigError(f"No weights are trained: add --ckpt_path best, which is {best}.")
        if path in KINDS and not Path(path).is_file():
            word, path = path, self._newest(path)
            rank_zero_info(f"--ckpt_path {word} is {path}")
        elif not fits and os.path.isdir(path):
            path = str(find_checkpoint(Path(path)))
        return path

    def _newest(self, word: str) -> str:
        """The checkpoint "best" or "last" of the newest run below the root folder."""
        config, runs = self.config, _root(self.config["trainer"])
        own: str | None = config["checkpoint"]["dirpath"]
        if word == "last" or config["checkpoint"]["monitor"] is None:
            own = config["last_checkpoint"]["dirpath"] or own
        root, place = (own, ".") if own else (runs, "fit/version_*/checkpoints")
        path = newest_checkpoint(Path(root), place, KINDS[word])
        _require_same_data(path, config["data"])
        return path

    def before_instantiate_classes(self) -> None:
        """Load checkpoints with ``weights_only`` unless the user disables it.

        With a checkpoint, ``model.warm_start`` is not used.
        """
        config = self.config
        if config.get("ckpt_path"):
            config["model"]["init_args"]["warm_start"] = None
        if config["weights_only"] is None:
            config["weights_only"] = True
        if self.command == "predict":  # they are written
            config["return_predictions"] = False

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Log to ``<root>/<command>/version_N``, and write checkpoints atomically.

        Loggers that write elsewhere, such as to a server, are added to those of that folder.
        """
        config = self.config_init["trainer"]
        given = config.get("logger")
        others = [] if given in (None, True) else given if isinstance(given, list) else [given]
        has_folder = any(isinstance(other, TensorBoardLogger | CSVLogger) for other in others)
        if given is not False and not has_folder and not config.get("fast_dev_run"):
            csv = CSVLogger(_root(config), self.command)  # it warns of a folder that has files
            tensorboard = TensorBoardLogger(csv.save_dir, self.command, csv.version)
            kwargs["logger"] = [csv, tensorboard, *others]
        if config.get("plugins") is None:
            kwargs["plugins"] = [DurableCheckpointIO()]
        self._own_logs = "logger" in kwargs
        own = config["callbacks"] or []
        own = own if isinstance(own, list) else [own]
        has_bar = any(isinstance(each, callbacks.ProgressBar) for each in own)
        if config["enable_progress_bar"] is not False and not has_bar:
            kwargs["callbacks"] = [ProgressBar(), *own]
        return super().instantiate_trainer(**kwargs)

    def _claim_folder(self) -> None:
        """Make the folder of the logs, which a run that starts at the same moment cannot take.

        Lightning tells the other ranks its path.
        """
        if self._own_logs and self.trainer.is_global_zero:
            taken: Any = self.trainer.loggers[0]
            check_writable("trainer.default_root_dir", Path(taken.root_dir), "the log")
            for version in count(taken.version):
                with suppress(FileExistsError):
                    os.mkdir(os.path.join(taken.root_dir, f"version_{version}"))
                    break
            for place, kind in enumerate((CSVLogger, TensorBoardLogger)):
                self.trainer.loggers[place] = kind(taken.save_dir, taken.name, version)

    @property
    def kept(self) -> str:
        """The checkpoint of a fit that has ended: the best if there is one, else the last."""
        best, last = (self.config_init[name] for name in ("checkpoint", "last_checkpoint"))
        saved = last.path and last.path.is_file() and not self.config["trainer"]["fast_dev_run"]
        return str(best.best_model_path or (last.path if saved else ""))

    def _tell_kept(self) -> None:
        """Print the kept checkpoint, its metric, and the commands that read it."""
        if not self.kept:  # fast_dev_run, or without callbacks
            return
        best = self.config_init["checkpoint"]
        which, monitor, score = "the best epoch", best.monitor, best.best_model_score
        if score is None:
            which, monitor = "the last epoch", self.config["early_stopping"]["monitor"]
            score = self.trainer.callback_metrics.get(monitor)
        metric = "" if score is None else f", {monitor} {metric_text(monitor, float(score))}"
        path = f"{os.path.relpath(self.kept)}, {which}"
        rank_zero_info(f"Kept {path}{metric}: test and predict take it as --ckpt_path.")

    def _check_modes(self) -> None:
        """Raise ConfigError if the epoch with the highest loss would be kept."""
        for section in ("checkpoint", "early_stopping"):
            monitor, mode = (self.config[section][key] for key in ("monitor", "mode"))
            if str(monitor).partition("/")[2].startswith("loss") and mode == "max":
                raise ConfigError(f"The lowest {monitor} is best: set {section}.mode to min.")


def show_scores(module: EPICModule, results: Sequence[Mapping[str, float]]) -> None:
    """Print the metrics of a validation or test, its rows and the share of the largest class."""
    table = Table("metric", Column("value", justify="right"))
    for name, value in sorted(item for result in results for item in result.items()):
        table.add_row(name, metric_text(name, value))
    Console().print(table)
    labels = module.outputs.merged().labels
    if rows := len(labels):
        counts = labels.sum(dim=0) if labels.ndim > 1 else labels.bincount()
        share, name = f"{counts.max() / rows:.1%}", printable(module.class_names[counts.argmax()])
        print(f"on {counted(rows, 'rows')}; the most frequent class, {name}, has {share}")


def _is_no_tip(record: logging.LogRecord) -> bool:
    """Whether a message is not Lightning's advice to install a service; it has no switch."""
    return "Tip: For seamless cloud" not in record.getMessage()


def _root(trainer: Mapping[str, Any]) -> str:
    """The folder of all runs."""
    return trainer.get("default_root_dir") or "runs"


def _require_same_data(checkpoint: str, data: Mapping[str, Any]) -> None:
    """Refuse the newest run if its config names other data."""
    config = Path(checkpoint).parents[1] / "config.yaml"
    if not config.is_file():
        return
    content: Any = read_yaml(str(config))
    try:
        theirs, ours = (
            (section["class_path"], (section["init_args"] or {}).get("table"))
            for section in (content["data"], data)
        )
    except (AttributeError, LookupError, TypeError):  # not written by this package
        return
    if theirs != ours:
        before, now = (table or kind.rpartition(".")[2] for kind, table in (theirs, ours))
        other = f"The newest run, {checkpoint}, was trained on other data ({before}, now {now})"
        raise ConfigError(f"{other}: give a checkpoint, or another trainer.default_root_dir.")


def _check_sections(options: Mapping[str, Any]) -> None:
    """Check the types of option sections before the parser reads them.

    The parser would read a string in place of a section as a config file, which may name a class.
    """
    for name, kind in get_type_hints(EPICModule.__init__).items():
        if isinstance(kind, type) and is_dataclass(kind) and name in options:
            as_config(kind, options[name])


def _name_classes(data: Namespace, saved: dict[str, Any]) -> None:
    """Take the classes from the checkpoint if the training table is not available."""
    options = data.get("init_args") or {}
    if not options.get("predict_table") or os.path.exists(options["table"]):
        return
    options["classes"] = options["classes"] or saved.get("class_names")
    if saved.get("task") == "multilabel":
        # it makes the task multilabel; no cell is split with it
        options["label_separator"] = options["label_separator"] or "|"


def _prepare_alike(data: Namespace, saved: dict[str, Any]) -> None:
    """Take the checkpoint's preprocessing where an option has its default.

    Another value is refused when the checkpoint is loaded.
    """
    options, known = data.get("init_args") or {}, signature(ImageTextDataModule).parameters
    for name, value in input_options(saved.get("preprocessing")).items():
        default = known[name].default if name in known else None
        if type(value) is type(default) and options.get(name) == default != value:
            options[name] = value
            if default != "auto":
                rank_zero_info(f"data.{name} is {value}, as in the checkpoint")


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silence messages such as Lightning's on devices and seeds, for one of many runs."""
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def parse(args: Sequence[str]) -> EPICCLI:
    """Parse the command line ``args``; errors are raised.

    Raises:
        EpicError: with a message for the user.
    """
    set_parsing_settings(
        # else a class that an option of type Any names would be built
        instantiate_subclass_spec_in_any=False,
        # adds none to the parser's own, such as subprocess, which else is only warned of
        import_path_denylist=[],
    )
    # Lightning warns of what is intended: loaders of few workers
    disable_possible_user_warnings("lightning.pytorch.trainer.connectors.data_connector")
    # and of what it calls itself
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"lightning\.")
    # torch warns of joint attention of an Ensemble on the CPU
    warnings.filterwarnings("ignore", "There is a performance drop")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_no_tip)
    # tokenizers' threads are not safe in forked loader workers
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    load_plugins()
    if not args or args[0] not in LightningCLI.subcommands():
        raise ConfigError("The command comes first, as in `epic-pl fit --config openmoji.yaml`.")
    command, *words = resolve_configs(args)
    words = [re.sub("^--[a-z]+(?==|$)", lambda m: _SHORT.get(m[0], m[0]), word) for word in words]
    with _plain_errors():
        return EPICCLI(command, words)


def as_options(values: Mapping[str, Any]) -> list[str]:
    """Command line arguments of ``fit`` for dotted option names and their values."""
    return [
        f"--{name}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in values.items()
    ]


def run(args: Sequence[str]) -> EPICCLI:
    """Run the command line ``args``; errors are raised.

    Raises:
        EpicError: with a message for the user.
    """
    cli = parse(args)
    cli.build()
    cli.execute()
    return cli


def build(options: Sequence[str]) -> Built:
    """Data, module and trainer for options of ``epic-pl fit``."""
    return parse(["fit", *options]).build()


def build_data(options: Sequence[str]) -> ImageTextDataModule:
    """The DataModule for options of ``epic-pl fit``, without a model."""
    return data_of(parse(["fit", *options]).config["data"])


@_plain_errors()
def data_of(section: Any) -> ImageTextDataModule:
    """The DataModule of a section ``data`` of parsed options."""
    config = Namespace(data=section)  # type: ignore[no-untyped-call]  # jsonargparse
    parser = LightningArgumentParser(**PARSER_OPTIONS)
    parser.add_lightning_class_args(ImageTextDataModule, "data", subclass_mode=True)
    return cast(ImageTextDataModule, parser.instantiate_classes(config)["data"])


def checkpoint_of(options: Sequence[str]) -> Path:
    """The checkpoint that options of ``epic-pl test`` name, also by ``best``, ``last`` or a run."""
    return Path(parse(["test", *options]).config["ckpt_path"])


def build_trained(options: Sequence[str]) -> tuple[EPICModule, ImageTextDataModule, str]:
    """The trained module for options of ``epic-pl test``, its data and its checkpoint path."""
    cli = parse(["test", *options])
    module, data, trainer = cli.build()
    path = str(cli.config["ckpt_path"])
    module.load_weights(path)
    return module.to(trainer.strategy.root_device).eval(), data, path
