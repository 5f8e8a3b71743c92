"""One run of a comparison, in a process of its own: fit, then test of what it kept.

``python -m epic_pl.experiments.compare.worker FOLDER [PARENT]`` reads ``run.json`` in the folder
and writes ``result.json`` and ``predictions.parquet``. It ends when the process PARENT has ended.
"""

import platform
import sys
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from lightning.pytorch.callbacks import Timer

from epic_pl.callbacks import CostMeter
from epic_pl.cli import EPICCLI, errors_as_text, run
from epic_pl.errors import ConfigError
from epic_pl.experiments.compare.outputs import TestOutputs
from epic_pl.experiments.files import read_json, write_json
from epic_pl.experiments.interruption import end_with
from epic_pl.experiments.options import use_stored_features
from epic_pl.module.parameters import trainable_share

# the process of a comparison that was killed, and its loader workers, need some time to end
_WAIT_S = 30


class RunCLI(EPICCLI):
    """``fit`` and then ``test``, with the callbacks of a comparison."""

    def instantiate_classes(self) -> None:
        """Add the callbacks, and store the features that this method can use."""
        super().instantiate_classes()
        trainer: Any = self.trainer
        self.folder = Path(trainer.default_root_dir)
        self.timer, self.meter, self.outputs = Timer(), CostMeter(), TestOutputs()
        # first, so that they see the time in the others' hooks
        trainer.callbacks[:0] = [self.timer, self.meter, self.outputs]
        self.cache_level = use_stored_features(self)

    def _run_subcommand(self, subcommand: str) -> None:
        fitted = _fitted(self.folder)
        if fitted is None:
            super()._run_subcommand(subcommand)
            fitted = self._cost()
            if fitted["best"]:
                write_json(self.folder / "fit.json", fitted)
        self.trainer.test(
            self.model,
            datamodule=self.datamodule,
            ckpt_path=fitted["best"] or None,
            weights_only=True,
            verbose=False,
        )
        self.cost = fitted

    def _cost(self) -> dict[str, Any]:
        """Cost of the fit; for a resumed one, rate and memory since it was resumed."""
        return {
            "best": getattr(self.trainer.checkpoint_callback, "best_model_path", ""),
            "epochs": self.trainer.current_epoch,
            "seconds": self.timer.time_elapsed(),
            "samples_per_s": self.meter.samples_per_s or None,
            "peak_memory_mb": self.meter.peak_memory_mb,
        }

    def result(self) -> dict[str, Any]:
        """Metrics of the test split, cost and circumstances."""
        module = self.model
        metrics = {
            name.removeprefix("test/"): float(value)
            for name, value in self.trainer.callback_metrics.items()
            if name.startswith("test/")
        }
        return {
            **self.cost,
            "task": module.task,
            "metrics": metrics,
            "trainable": sum(p.numel() for p in module.parameters() if p.requires_grad),
            "encoder_share": trainable_share(module.model),
            "cache_level": self.cache_level,
            "device": _device_name(self.trainer.strategy.root_device),
            "torch": torch.__version__,
        }


def run_one(folder: Path) -> None:
    """Do the run of ``run.json`` in ``folder``, or the part of it that is left.

    Raises:
        ConfigError: if another process is training there.
        EpicError: from ``fit`` and ``test``.
    """
    spec = read_json(folder / "run.json") or {}
    try:
        with FileLock(folder / ".lock", timeout=_WAIT_S):
            cli: Any = run(["fit", *spec.pop("options"), *_places(folder)], RunCLI)
            cli.outputs.write(folder / "predictions.parquet", cli.model.class_names)
            write_json(folder / "result.json", spec | cli.result())
    except Timeout:
        raise ConfigError(f"Another process is training in {folder}: wait for it.") from None


def _fitted(folder: Path) -> dict[str, Any] | None:
    """What ``fit.json`` holds, if the checkpoint that it names lies in this run's own folder."""
    fitted = read_json(folder / "fit.json") or {}
    best = folder / "checkpoints" / Path(str(fitted.get("best"))).name
    return fitted | {"best": str(best)} if best.is_file() else None


def _places(folder: Path) -> list[str]:
    """Options that keep all files of a run in its folder, and resume from the checkpoint there."""
    checkpoints = folder / "checkpoints"
    options = [
        f"--trainer.default_root_dir={folder}",
        f"--checkpoint.dirpath={checkpoints}",
        f"--last_checkpoint.dirpath={checkpoints}",
    ]
    last = checkpoints / "last.ckpt"
    if last.is_file() and _fitted(folder) is None:
        options.append(f"--ckpt_path={last}")
    return options


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {platform.machine()}, {torch.get_num_threads()} threads"


def main() -> None:
    """Do the run of the command line."""
    if len(sys.argv) > 2:
        end_with(int(sys.argv[2]))
    with errors_as_text():
        run_one(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
