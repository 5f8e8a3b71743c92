"""Attention of the prompts in TensorBoard while they are trained."""

import warnings

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger

from epic_pl.errors import ConfigError
from epic_pl.evaluation.evaluator import require_data
from epic_pl.evaluation.explain.figures import draw_explanation
from epic_pl.evaluation.explain.samples import explain_sample, require_prompts, spread_rows
from epic_pl.inspection.html_page import MISSING_GLYPH
from epic_pl.module import EPICModule


class PromptAttention(Callback):
    """Draws a few validation samples as ``epic-pl explain`` does, the same ones every time.

    The figures go to TensorBoard, under ``attention/``; without its logger nothing is drawn.
    Images and texts pass through the encoders, even if features are stored.

    Args:
        every_n_epochs: number of epochs between drawings; 0 is never.
        samples: number of samples, at even distances in the validation split.

    Raises:
        ConfigError: before training, if nothing can be drawn.
    """

    def __init__(self, every_n_epochs: int = 0, samples: int = 4) -> None:
        for name, value, least in (("every_n_epochs", every_n_epochs, 0), ("samples", samples, 1)):
            if value < least:
                raise ConfigError(f"explain.{name} is {value}, but must be at least {least}.")
        self.every_n_epochs = every_n_epochs
        self.samples = samples

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Check that there will be something to draw."""
        if self.every_n_epochs and stage == "fit":
            require_data(trainer, pl_module, "explain.every_n_epochs")
            require_prompts(pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw, on rank zero."""
        due = self.every_n_epochs and (trainer.current_epoch + 1) % self.every_n_epochs == 0
        loggers = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        fitting = trainer.state.fn == "fit" and not trainer.sanity_checking
        if not (due and fitting and loggers and trainer.is_global_zero):
            return
        assert isinstance(pl_module, EPICModule)
        data = require_data(trainer, pl_module, "explain.every_n_epochs")
        dataset = data.dataset("val")
        rows = spread_rows(len(dataset), self.samples)
        made = data.collator, data.image_preprocessing
        with trainer.precision_plugin.forward_context():
            explanations = [explain_sample(pl_module, *made, dataset[row]) for row in rows]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=MISSING_GLYPH)
            for explanation in explanations:
                figure = draw_explanation(explanation)
                for logger in loggers:
                    name = f"attention/{explanation.sample_id}"
                    logger.experiment.add_figure(name, figure, trainer.global_step)
