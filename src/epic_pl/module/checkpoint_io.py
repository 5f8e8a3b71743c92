"""Atomic writing of checkpoint files."""

import io
import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.types import _PATH

from epic_pl.errors import CheckpointError


class DurableCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, flushes to disk, and renames.

    Lightning's own plugin writes to the system's temporary folder first; moving from there to
    another filesystem is a copy that a kill can interrupt. Pass this one as
    ``Trainer(plugins=[...])``; the command line does. URLs such as ``s3://`` are left to Lightning.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any = None
    ) -> None:
        """Replace the file at ``path``.

        Raises:
            CheckpointError: if it cannot be written, for example for lack of space; the previous
                file stays intact.
        """
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        part = target.with_name(f".{target.name}.part")
        content = io.BytesIO()
        torch.save(checkpoint, content)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                file.write(content.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, target)
            _flush_folder(target.parent)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise CheckpointError(
                f"{target} cannot be written: {error.strerror or error}. Checkpoints that were "
                "written before are untouched: make room, or set another "
                "trainer.default_root_dir, and resume with --ckpt_path."
            ) from error


def _flush_folder(folder: Path) -> None:
    """Make a rename in a folder survive a power failure."""
    if os.name == "nt":  # Windows cannot open a folder
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
