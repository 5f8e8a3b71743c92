"""Plots beside the logs of a run.

Shape legend: C classes.
"""

from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info
from matplotlib.figure import Figure
from torch import Tensor

from epic_pl.files import write_bytes
from epic_pl.inspection.html_page import SHADES, plot_style, png, shorten
from epic_pl.module import EPICModule
from epic_pl.module.outputs import SplitOutputs

MAX_CLASSES = 40
"""With more, counts and names would be illegible: there is no confusion matrix."""


class ConfusionMatrixPlot(Callback):
    """Draws a test's confusion matrix (up to 40 classes) to ``confusion_matrix.png`` and logs."""

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the counts of all ranks, on rank zero."""
        if not isinstance(pl_module, EPICModule) or pl_module.task == "multilabel":
            return
        if pl_module.num_classes > MAX_CLASSES:
            return
        # both are collective calls, so every rank must make them
        outputs = pl_module.outputs.merged()
        folder = Path(trainer.log_dir or trainer.default_root_dir)
        if not trainer.is_global_zero:
            return
        counts = confusion_counts(outputs)
        figure = draw_confusion_matrix(counts, pl_module.class_names)
        path = folder / "confusion_matrix.png"
        write_bytes(path, png(figure))
        rank_zero_info(f"Confusion matrix drawn to {path}")
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_figure("test/confusion_matrix", figure, trainer.global_step)


def confusion_counts(outputs: SplitOutputs) -> Tensor:
    """Confusion matrix ``(C, C)`` of a multiclass task; rows are the truth."""
    size = outputs.logits.shape[1]
    cells = outputs.labels.long() * size + outputs.logits.argmax(dim=1)
    return cells.bincount(minlength=size**2).view(size, size)


@plot_style()
def draw_confusion_matrix(counts: Tensor, class_names: list[str]) -> Figure:
    """A figure of counts ``(C, C)``, rows the truth; shades are shares of each row."""
    size = len(class_names)
    side = max(3.0, 0.32 * size + 1.6)
    figure = Figure(figsize=(side, side))
    axes = figure.add_subplot()
    shares = counts / counts.sum(dim=1, keepdim=True).clamp(min=1)
    axes.imshow(shares.numpy(), cmap=SHADES, vmin=0, vmax=1)
    # without parsing, a $ in a name starts no formula
    names = [shorten(name, 30) for name in class_names]
    axes.set_xticks(range(size), names, rotation=90, parse_math=False)
    axes.set_yticks(range(size), names, parse_math=False)
    accuracy = counts.diagonal().sum() / counts.sum().clamp(min=1)
    title = f"{int(counts.sum()):,} samples, accuracy {accuracy:.1%}"
    axes.set(xlabel="predicted", ylabel="true", title=title)
    for row, column in counts.nonzero().tolist():
        shade = "white" if shares[row, column] > 0.7 else "black"
        count = str(int(counts[row, column]))
        axes.text(column, row, count, ha="center", va="center", color=shade, fontsize=8)
    return figure
