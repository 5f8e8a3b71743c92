"""What a head knows before its first step: the classes' names, and how training rows look.

Shape legend: R rows, C classes, d width.
"""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from epic_pl.data.preprocessing import load_tokenizer
from epic_pl.errors import AssetError, EncoderError
from epic_pl.module.class_names import encode_names
from epic_pl.module.modality_balance import FEWEST_ROWS, PooledRows, modality_balance, part_scales
from epic_pl.module.seen_rows import SeenRows, look_at_rows
from epic_pl.nn.base import DualEncoder
from epic_pl.nn.heads.classification import ClassificationHead
from epic_pl.nn.heads.similarity import Agreement
from epic_pl.types import Task

# who is alone varies as much as both modalities do together
_BOTH = 2**0.5
_YET_TO_START = "yet_to_start_from_rows"


class HeadStart(L.LightningModule):
    """The start's part of :class:`epic_pl.module.EPICModule`, which gives it its options.

    Weights that were trained, or loaded, are left as they are.
    """

    model: DualEncoder
    task: Task
    num_classes: int
    _class_name_scale: float
    _names_to_start_from: list[str] | None = None
    _starts_from_rows: frozenset[str] = frozenset()
    _loaded_starts: frozenset[str] = frozenset()
    _encoder_names: dict[str, tuple[str, str | None]]

    def setup(self, stage: str) -> None:
        """Prepare a run; a fit of weights that were never trained starts from the classes' names.

        Raises:
            ConfigError: if the device cannot do what is asked.
        """
        super().setup(stage)
        if stage == "fit":
            self.start_from_names()

    def on_train_start(self) -> None:
        """Now the loaders stand: look at rows before the weights' average begins."""
        self.start_from_rows()
        super().on_train_start()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say what the head has yet to start from: a search for a learning rate puts it back."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[_YET_TO_START] = sorted(self._starts_from_rows)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up what :meth:`on_save_checkpoint` said."""
        super().on_load_checkpoint(checkpoint)
        self._loaded_starts = frozenset(checkpoint.get(_YET_TO_START, ()))

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As torch's; what was trained is not replaced when a fit begins."""
        self._names_to_start_from, self._starts_from_rows = None, self._loaded_starts
        self._loaded_starts = frozenset()
        return super().load_state_dict(*args, **kwargs)

    def start_from_names(self) -> None:
        """Let the head start from ``class_names``, unless it did or weights were loaded."""
        names, self._names_to_start_from = self._names_to_start_from, None
        if not names:
            return
        try:
            tokenizer = load_tokenizer(*self._encoder_names["text"])
        except (AssetError, EncoderError) as error:
            # whoever brings batches of their own may have no tokenizer where we look for it
            rank_zero_info(f"The head does not start from the names of the classes. {error}")
            return
        encoder, layers = self.model.text_encoder, self.model.text_layers_seen
        encoded = encode_names(encoder, tokenizer, names, layers)
        self.model.start_from_names(encoded, self._class_name_scale)

    def start_from_rows(self) -> None:
        """Let the head start from the training rows, unless it did or weights were loaded.

        Up to 512 rows, evenly spaced, are looked at. With ``balance_modalities`` summaries are
        centred and brought to one scale,
        :func:`modality_balance` finds how much the picture weighs beside
        the text, and the stand-in of an absent modality starts at the mean of what is there. With
        ``align_modalities`` the similarity of both modalities starts from what they have in common.
        """
        starts, self._starts_from_rows = self._starts_from_rows, frozenset()
        head = next((m for m in self.model.modules() if isinstance(m, ClassificationHead)), None)
        # under other strategies a rank has but a shard of each weight
        usual = isinstance(self.trainer.strategy, SingleDeviceStrategy | DDPStrategy)
        if head is None or not head.has_summaries or not usual:
            return
        balances = "balance" in starts and head.norms is not None
        agreement = head.agreement if "align" in starts else None
        if not balances and agreement is None:
            return
        seen: SeenRows | None = None
        if self.trainer.is_global_zero:
            with isolate_rng():
                seen = look_at_rows(self.model, head, self.trainer, self.task, self.num_classes)
        # all ranks go on with the same rows, whatever share of them a rank's loader has
        seen = self.trainer.strategy.broadcast(seen)
        if seen is None:
            return
        if balances:
            self._balance(head, seen)
        if agreement is not None:
            self._align(agreement, seen)

    def _balance(self, head: ClassificationHead, seen: SeenRows) -> None:
        image, text, balance = seen.image, seen.text, 1.0
        if image.tells and text.tells:
            balance = modality_balance(image.centred, text.centred, seen.targets)
        sides = (image, text)
        shared = _standardised(sides, part_scales(image, text, balance))
        means = [side.pooled_mean if side.tells else None for side in sides]
        alone = []
        if seen.alone is not None:
            alone = _standardised(
                seen.alone, [(_BOTH * side.scales).tolist() for side in seen.alone]
            )
        # ranks agree but for rounding, and DDP does not compare weights any more
        shared, alone, means = self.trainer.strategy.broadcast((shared, alone, means))
        for start in shared:
            head.start_from_rows(*start)
        for start in alone:
            assert head.alone is not None
            head.alone.start_from_rows(*start)
        self.model.start_from_means(*means)
        both = f": beside texts, pictures weigh {balance:.2g} times what they would otherwise"
        rank_zero_info(
            f"The head starts from {len(seen.targets)} training rows"
            f"{both if image.tells and text.tells else ''}."
        )

    def _align(self, agreement: Agreement, seen: SeenRows) -> None:
        both = seen.image.present & seen.text.present
        if seen.compared is None or int(both.sum()) < FEWEST_ROWS:
            return
        if not (seen.image.tells and seen.text.tells):
            return
        image, text = (vectors[both].double() for vectors in seen.compared)
        if not (image.isfinite().all() and text.isfinite().all()):
            return
        # in double precision on the CPU, and the same on every rank
        start = deepcopy(agreement).to("cpu", torch.float64)
        start.start_from_rows(image, text, seen.targets[both])
        agreement.load_state_dict(self.trainer.strategy.broadcast(start.state_dict()))


def _standardised(
    sides: Sequence[PooledRows], scales: Sequence[Sequence[float]]
) -> list[tuple[int, Tensor, float]]:
    """Part, mean ``(w,)`` and scale of each vector of both modalities, as far as they tell."""
    return [
        (2 * number + side, mean, scale)
        for side, rows in enumerate(sides)
        if rows.tells
        for number, (mean, scale) in enumerate(zip(rows.mean, scales[side], strict=True))
    ]
