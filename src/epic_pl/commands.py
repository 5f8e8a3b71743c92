"""The commands behind ``epic-pl``: the trainer's and our own; errors as text."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, Namespace
from lightning.pytorch.cli import LightningArgumentParser

from epic_pl.callbacks import FeatureCache
from epic_pl.cli import EPICCLI, PARSER_OPTIONS, run
from epic_pl.data import ImageTextDataModule
from epic_pl.errors import ConfigError, EpicError
from epic_pl.module import EPICModule
from epic_pl.module.checkpoint import read_checkpoint

# how jsonargparse says that `data` may also be left out
_PARSER_NOISE = re.compile(
    r"(- )?Does not validate against any of the Union subtypes.*?Errors:\s*- "
    r"|- Expected a <class 'NoneType'>.*|Given value type:.*",
    re.DOTALL,
)


def run_command(argv: list[str]) -> None:
    """Run ``epic-pl ARGV``; our errors become one paragraph on stderr and exit code 1."""
    with errors_as_text():
        if argv[:1] == ["data"]:
            from epic_pl.inspection.command import run as run_data

            raise SystemExit(run_data(argv[1:]))
        if argv[:1] == ["cache"]:
            from epic_pl.features.commands import run as run_cache

            raise SystemExit(run_cache(argv[1:]))
        if argv[:1] == ["compare"]:
            from epic_pl.experiments.compare.command import compare_command

            raise SystemExit(compare_command(argv[1:]))
        if argv[:1] == ["tune"]:
            from epic_pl.experiments.tune.command import tune_command

            raise SystemExit(tune_command(argv[1:]))
        if argv[:1] == ["explain"]:
            from epic_pl.evaluation.explain.command import run as run_explain

            raise SystemExit(run_explain(argv[1:]))
        if argv[:1] == ["export"]:
            from epic_pl.evaluation.export.command import run as run_export

            raise SystemExit(run_export(argv[1:]))
        run(argv)


@contextmanager
def errors_as_text() -> Iterator[None]:
    """Our errors, and places of others, become one paragraph on stderr and exit code 1."""
    try:
        yield
    except (EpicError, ArgumentError) as error:
        print(f"epic-pl: {type(error).__name__}: {_message(error)}", file=sys.stderr)
        raise SystemExit(1) from None
    except PermissionError as error:
        if error.filename is None:  # no place, but something else that is not allowed
            raise
        print(
            f"epic-pl: {error.filename} may not be read or written ({error.strerror}). Choose "
            "another place: --output, --trainer.default_root_dir, or EPIC_PL_CACHE for the cache.",
            file=sys.stderr,
        )
        raise SystemExit(1) from None


class _DataCLI(EPICCLI):
    """Parses all that ``fit`` takes, and builds the data alone."""

    def instantiate_classes(self) -> None:
        parser = LightningArgumentParser(**PARSER_OPTIONS)
        parser.add_lightning_class_args(ImageTextDataModule, "data", subclass_mode=True)
        config = Namespace(data=self.config[self.subcommand]["data"])  # type: ignore[no-untyped-call]  # jsonargparse
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
        callbacks: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]  # Lightning
        cache = next(each for each in callbacks if isinstance(each, FeatureCache))
        cache.build_stores(self.trainer, self.model, self.datamodule)


def fill_cache(args: list[str]) -> None:
    """Store the features of every split that these options of ``epic-pl fit`` would train on."""
    run(["fit", *args], _CacheCLI)


class _BuildCLI(EPICCLI):
    """Parses and builds all that ``test`` takes, and runs nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        pass


def build_trained(args: list[str]) -> tuple[EPICModule, ImageTextDataModule, str]:
    """The module that ``epic-pl test`` would run with these options, its data and checkpoint.

    Raises:
        ConfigError: if the options name no checkpoint's file.
    """
    cli = run(["test", *args], _BuildCLI)
    path = cli.config["test"]["ckpt_path"]
    if not path or not Path(path).is_file():
        raise ConfigError(f"--ckpt_path is {path}: give the file of a checkpoint to explain.")
    module: EPICModule = cli.model
    checkpoint = read_checkpoint(path)
    module.on_load_checkpoint(checkpoint)
    module.load_state_dict(checkpoint["state_dict"])
    return module.to(cli.trainer.strategy.root_device).eval(), cli.datamodule, str(path)


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
