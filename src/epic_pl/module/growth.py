"""The callback that grows the boosted trees of a head when a training starts.

Shape legend: N training rows, C classes, D features of a modality, F features of columns.
"""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from epic_pl.data import ImageTextDataModule
from epic_pl.nn.heads import ClassificationHead, TreesHead
from epic_pl.nn.heads.trees import BoostedTrees
from epic_pl.nn.pair import Pair, Presence
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
        data = getattr(trainer, "datamodule", None)
        resumes = trainer.ckpt_path is not None
        if not heads or resumes:
            return
        if not isinstance(data, ImageTextDataModule):
            if any(isinstance(head, TreesHead) for head in heads):
                raise ConfigError(
                    "Trees grow from the rows of a DataModule: call fit with datamodule=..., "
                    "such as a TableDataModule, or take another method."
                )
            return
        rank_zero_info("Growing boosted trees on the training rows ...")
        grown: Any = None
        if trainer.is_global_zero:
            head = heads[0]
            widths = Pair(head.image.encoder_width, head.text.encoder_width)
            trees = BoostedTrees(pl_module.num_classes, head.columns, widths)
            trees.fit(*training_rows(trainer, pl_module, data, head), pl_module.task)
            grown = trees.state_dict()
        grown = trainer.strategy.broadcast(grown)
        for head in heads:
            for name, buffer in head.trees.named_buffers():  # of an ensemble, those of all members
                buffer.copy_(grown[name])


def training_rows(
    trainer: L.Trainer, module: Any, data: ImageTextDataModule, head: ClassificationHead | TreesHead
) -> tuple[Pair[Tensor] | None, Presence, Tensor]:
    """Features ``(N, D)``, presence and labels of the training rows, on the CPU.

    Features are None unless the encoders are frozen; then no image is read.
    """
    frozen, plugin = "layers" in module.model.cache_levels, trainer.precision_plugin
    found = []
    module.eval()
    for given in data.training_pass(_MOST_ROWS, whole=frozen):
        batch: Any = trainer.strategy.batch_to_device(plugin.convert_input(given))
        all_present = torch.ones(len(batch["labels"]), dtype=torch.bool)
        parts = [batch["labels"], batch.get("columns", all_present[:, None])]
        parts += [batch.get(f"{name}_present", all_present) for name in Pair._fields]
        if frozen:
            with plugin.forward_context():
                states = module.model.extract(batch, module.model.presence(batch))
                sides = zip((head.image, head.text), states, strict=True)
                parts += [side.of_encoder(state.pool()) for side, state in sides]
        found.append([part.cpu() for part in parts])
    labels, columns, image, text, *features = map(torch.cat, zip(*found, strict=True))
    present = Presence(image, text, columns if head.columns else None)
    return Pair(*features) if frozen else None, present, labels
