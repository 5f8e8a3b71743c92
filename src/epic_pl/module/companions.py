"""Callbacks that every :class:`~epic_pl.module.EPICModule` brings to its Trainer."""

from collections.abc import Iterator
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, ModelPruning, WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from epic_pl.data.preprocessing import (
    ImagePreprocessing,
    Preprocessing,
    TextPreprocessing,
    image_file,
)
from epic_pl.module.config import EncoderConfig
from epic_pl.module.outputs import warn_of_absence
from epic_pl.module.parameters import parameter_table
from epic_pl.nn.encoders import Encoder
from epic_pl.utils.assets.sentence_files import read_sentence_files
from epic_pl.utils.errors import ConfigError, TrainingError

# on an accelerator each check of the loss has to wait for the device
_CHECK_INTERVAL = 50


class ParameterTable(Callback):
    """Prints the encoders and the numbers of parameters when a training starts."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Print a line for each encoder and the table once."""
        if trainer.is_global_zero:
            for line in encoder_lines(pl_module):
                rank_zero_info(line)
            parameter_table(pl_module.model)


class TrainingGuard(Callback):
    """Refuses ``ModelPruning``, and ends a training whose loss is not finite.

    The loss of each batch is checked on a CPU, elsewhere that of every 50th, before the backward
    pass.
    """

    _batch: Any = None

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """Raise ConfigError if there is a callback whose checkpoints would not load."""
        callbacks: Any = trainer.callbacks  # type: ignore[attr-defined]  # Lightning's
        if any(isinstance(callback, ModelPruning) for callback in callbacks):
            raise ConfigError(
                "Leave out ModelPruning: it renames weights, so that no checkpoint would load."
            )

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep a batch whose loss will be checked."""
        due = pl_module.device.type == "cpu" or batch_idx % _CHECK_INTERVAL == 0
        self._batch = batch if due else None

    def on_before_backward(self, trainer: L.Trainer, pl_module: Any, loss: Tensor) -> None:
        """Raise TrainingError if the loss of that batch is not finite."""
        batch, self._batch = self._batch, None
        if batch is None or bool(loss.isfinite()):
            return
        ids = ", ".join(batch.get("sample_id", [])[:8]) or "unknown"
        rates = ", ".join(f"{group['lr']:.1e}" for group in trainer.optimizers[0].param_groups)
        raise TrainingError(
            f"The loss is {loss.item()} at step {trainer.global_step} (learning rates {rates}; "
            f"samples {ids}). Lower model.optim.lr, or set trainer.gradient_clip_val to 1.0, or "
            "trainer.precision to 32-true or bf16-mixed; the checkpoints written before this step "
            "are untouched, and ckpt_path resumes from them."
        )


def encoder_lines(module: Any) -> Iterator[str]:
    """A line for each encoder of a module: what it is, and how its inputs are prepared."""
    given = Preprocessing.find(module.hparams.get("preprocessing")) or (None, None)
    yield encoder_line(module.encoders.image, module.model.image_encoder, given[0])
    yield encoder_line(module.encoders.text, module.model.text_encoder, given[1])


def encoder_line(config: EncoderConfig, encoder: Encoder, options: object) -> str:
    """The line of one encoder, with the options of its inputs; None are of another pipeline."""
    inputs = "inputs of another pipeline"
    if isinstance(options, ImagePreprocessing):
        inputs = f"{options} from {image_file(config.name)}"
    elif isinstance(options, TextPreprocessing):
        files = read_sentence_files(config.name, config.revision)
        inputs = f"{options} from {files.file if files.pooling else 'its tokenizer'}"
        inputs += f"; its prompts: {', '.join(files.prompts) or 'none'}"
    size = f"{encoder.num_layers} layers"
    if encoder.problem:
        size, inputs = "features alone", f"{inputs}. {encoder.problem}"
    size += f" of width {encoder.width}, {encoder.num_parameters:,} parameters"
    kind = f"{type(encoder).__name__} of {type(encoder.model).__name__} with {size}"
    return f"Encoder {config.name}: {kind}, pooling {encoder.pooling}; {inputs}"


class AbsenceWarning(Callback):
    """Warns once of a modality that a batch lacks, and that no training sample lacked."""

    def __init__(self) -> None:
        self._warned: set[str] = set()

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: Any, batch: Any, *_: Any, **__: Any
    ) -> None:
        """Look at a batch, unless nothing is known before the first training sample."""
        if not trainer.sanity_checking:
            head, names = pl_module.model.head, pl_module.class_names
            warn_of_absence(batch, names, lambda: head.never_missing, self._warned)

    on_test_batch_start = on_predict_batch_start = on_validation_batch_start


class AveragedDecisions(Callback):
    """Gives modules with averaged weights what validation has decided for the average.

    Temperature, thresholds and the choice of a candidate are fitted to the outputs of the average,
    which validation runs, before a checkpoint is written.
    """

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Copy the decisions of a validation in training."""
        if trainer.state.fn != TrainerFn.FITTING:
            return
        for callback in trainer.callbacks:  # type: ignore[attr-defined]  # Lightning's
            if isinstance(callback, WeightAveraging):
                # Lightning shows the averaged module nowhere else
                average: Any = callback._average_model
                average.module.postprocessor.load_state_dict(pl_module.postprocessor.state_dict())
                own = pl_module.model.choices, average.module.model.choices
                for choice, averaged in zip(*own, strict=True):
                    averaged.chosen.copy_(choice.chosen)
