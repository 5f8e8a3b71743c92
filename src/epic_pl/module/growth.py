"""The callback that grows the boosted trees of a head when a training starts.

Shape legend: N training rows, C classes, D features of a modality, F features of columns.
"""

import sys
from collections.abc import Iterable, Iterator
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from epic_pl.data import ImageTextDataModule
from epic_pl.nn.heads import Head, TreesHead
from epic_pl.nn.heads.trees import STAGES, BoostedTrees
from epic_pl.nn.pair import Pair, Source
from epic_pl.utils.errors import ConfigError

_MOST_ROWS = 20_000


class TreeGrower(Callback):
    """Grows boosted trees on at most 20,000 training rows, unless the run resumes.

    They read the columns and, if the encoders are frozen, the pooled features.
    """

    @torch.no_grad()
    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Grow them on the first rank for all ranks, and for all members of an ensemble.

        Raises:
            ConfigError: if there are only trees, and no DataModule of this package.
        """
        heads = [stack.head for stack in pl_module.model.stacks if stack.head.trees is not None]
        data = ImageTextDataModule.of(trainer)
        resumes = trainer.ckpt_path is not None
        if not heads or resumes:
            return
        if data is None:
            if any(isinstance(head, TreesHead) for head in heads):
                raise ConfigError(
                    "Trees grow from the rows of a DataModule: call fit with datamodule=..., "
                    "such as a TableDataModule, or take another method."
                )
            return
        rank_zero_info("Growing boosted trees on the training rows ...")
        share = trainer.strategy.broadcast
        grown: Any = None
        if trainer.is_global_zero:
            hidden = trainer.progress_bar_callback is None
            with Progress(console=Console(file=sys.stderr), disable=hidden) as bar:

                def watched(steps: Iterable[Any], what: str) -> Iterator[Any]:
                    for step in bar.track(steps, description=what):
                        yield step
                        share(None)

                whole = "layers" in pl_module.model.cache_levels
                batches = watched(data.training_pass(_MOST_ROWS, whole), "training rows")
                rows = training_rows(trainer, pl_module, batches, heads[0])
                trees = BoostedTrees(heads[0].widths, pl_module.num_classes)
                trees.fit(*rows, pl_module.task, watched(range(STAGES), "boosted trees"))
            grown = share(trees.state_dict())
        while grown is None:  # so often that no rank waits as long as a collective may take
            grown = share(None)
        for head in heads:
            for name, buffer in head.trees.named_buffers():  # of an ensemble, those of all members
                buffer.copy_(grown[name])


def training_rows(
    trainer: L.Trainer, module: Any, batches: Iterable[Any], head: Head
) -> tuple[dict[str, Source], Tensor]:
    """Sources and labels of the rows of batches, on the CPU.

    Where encoders are not frozen, the sources are the columns alone.
    """
    model, plugin = module.model.eval(), trainer.precision_plugin
    frozen = "layers" in model.cache_levels
    found: dict[str, list[Source]] = {}
    labels = []
    for given in batches:
        batch: Any = trainer.strategy.batch_to_device(plugin.convert_input(given))
        present = model.presence(batch)
        if frozen:
            with plugin.forward_context():
                pooled = Pair(*(state.pool() for state in model.extract(batch, present)))
            sources = head.sources(pooled, present, batch.get("columns"))
        else:
            sources = {"columns": Source(batch["columns"], present.columns)}
        for name, (features, mask) in sources.items():
            mask = torch.ones(len(features), dtype=torch.bool) if mask is None else mask
            found.setdefault(name, []).append(Source(features.cpu(), mask.cpu()))
        labels.append(batch["labels"].cpu())
    joined = {
        name: Source(*map(torch.cat, zip(*all_, strict=True))) for name, all_ in found.items()
    }
    return joined, torch.cat(labels)
