"""The origin and the result of a run in ``run.json``, beside its ``config.yaml``."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.cli import SaveConfigCallback

from epic_pl.data import ImageTextDataModule
from epic_pl.module import EPICModule
from epic_pl.module.checkpoint import weights_digest
from epic_pl.utils.files import write_json

_PACKAGES = (
    *("epic_pl", "torch", "torchvision", "lightning", "torchmetrics", "transformers"),
    *("tokenizers", "timm", "numpy", "pillow", "pyarrow"),
)


class RunRecord(SaveConfigCallback):
    """Saves the resolved config and ``run.json``.

    ``made_of`` has versions of packages, commits of the working folder and of the package where
    they are under git, fingerprints of both encoders, a hash of the rows of each split, and the
    device. ``result`` has step, metrics, and a hash of the trained weights after the last step.
    """

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Find the folder, the same on all ranks, and write before anything is trained."""
        self._path = Path(str(trainer.log_dir)) / "run.json"
        if isinstance(pl_module, EPICModule):
            pl_module.check_device(trainer.strategy.root_device)
            if (name := "model.init_args.encoders.precision") in self.config:
                self.config[name] = pl_module.encoders.precision
        super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Write ``made_of``; Lightning calls this on the first rank only."""
        self._content: dict[str, Any] = {"made_of": _made_of(trainer, pl_module)}
        write_json(self._path, self._content)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add ``result``, also if a run was resumed after its last step."""
        if trainer.is_global_zero:
            self._content["result"] = {
                "step": trainer.global_step,
                "metrics": {name: float(value) for name, value in trainer.callback_metrics.items()},
                "weights": weights_digest(pl_module),
            }
            write_json(self._path, self._content)


def _made_of(trainer: L.Trainer, module: L.LightningModule) -> dict[str, Any]:
    made_of: dict[str, Any] = {"python": platform.python_version()}
    made_of |= {name: version(name) for name in _PACKAGES}
    made_of["device"] = f"{trainer.world_size} x {trainer.strategy.root_device.type}"
    for name, folder in (("folder", Path.cwd()), ("package", Path(__file__).parents[1])):
        made_of[f"commit of the {name}"] = _commit(folder)
    if isinstance(module, EPICModule):
        info = module.checkpoint_info()
        made_of["image encoder"] = info["image_encoder"]["fingerprint"]
        made_of["text encoder"] = info["text_encoder"]["fingerprint"]
        made_of["precision of the encoders"] = module.encoders.precision
    if data := ImageTextDataModule.of(trainer):
        made_of |= {f"{split} rows": digest for split, digest in data.digests().items()}
    return made_of


def _commit(folder: Path) -> str | None:
    """Commit of a folder under git, with ``+`` if files differ from it; None without git."""
    describe = ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run([*describe, "--dirty=+"], capture_output=True, text=True)
    except OSError:  # no git here
        return None
    return found.stdout.strip() or None
