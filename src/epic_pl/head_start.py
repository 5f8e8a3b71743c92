"""What a head knows before its first step: the classes' names, and how training rows look.

Shape legend: R rows, C classes, d width.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.seed import isolate_rng
from rich.progress import track
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, Subset

from epic_pl.checks import check_batch
from epic_pl.class_names import encode_names
from epic_pl.data.preprocessing import load_tokenizer
from epic_pl.errors import AssetError, EncoderError
from epic_pl.modality_balance import FEWEST_ROWS, PooledRows, modality_balance, part_scales
from epic_pl.nn.dual_encoder import DualEncoder
from epic_pl.nn.head import Agreement, ClassificationHead
from epic_pl.objectives import Task

_MOST_ROWS = 512


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

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As torch's; what is loaded is not replaced when a fit begins."""
        self._names_to_start_from, self._starts_from_rows = None, frozenset()
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
        encoded = encode_names(self.model.text_encoder, tokenizer, names)
        self.model.start_from_names(encoded, self._class_name_scale)

    def start_from_rows(self) -> None:
        """Let the head start from the training rows, unless it did or weights were loaded.

        Up to 512 rows, evenly spaced, are looked at. With ``balance_modalities`` pooled outputs are
        centred and brought to one scale,
        :func:`~epic_pl.modality_balance.modality_balance` finds how much the picture weighs beside
        the text, and the stand-in of an absent modality starts at the mean of what is there. With
        ``align_modalities`` the similarity of both modalities starts from what they have in common.
        """
        starts, self._starts_from_rows = self._starts_from_rows, frozenset()
        head = next((m for m in self.model.modules() if isinstance(m, ClassificationHead)), None)
        # under other strategies a rank has but a shard of each weight
        usual = isinstance(self.trainer.strategy, SingleDeviceStrategy | DDPStrategy)
        if head is None or not usual:
            return
        balances = "balance" in starts and head.norms is not None
        agreement = head.agreement if "align" in starts else None
        if not balances and agreement is None:
            return
        with isolate_rng():
            seen = self._look_at_rows(head)
        if seen is None:
            return
        if balances:
            self._balance(head, seen)
        if agreement is not None:
            self._align(agreement, seen)

    def _balance(self, head: ClassificationHead, seen: "_Seen") -> None:
        image, text, balance = seen.image, seen.text, 1.0
        if image.tells and text.tells:
            balance = modality_balance(image.centred, text.centred, seen.targets)
        # ranks agree but for rounding, and DDP does not compare weights any more
        image, text, balance = self.trainer.strategy.broadcast((image, text, balance))
        sides = (image, text)
        for part, scale in enumerate(part_scales(image, text, balance)):
            if sides[part].tells:
                head.start_from_rows(part, sides[part].mean, scale)
        self.model.start_from_means(*(side.pooled_mean if side.tells else None for side in sides))
        rank_zero_info(
            f"The head starts from {len(seen.targets)} training rows: beside texts, pictures weigh "
            f"{balance:.2g} times what they would otherwise."
        )

    def _align(self, agreement: Agreement, seen: "_Seen") -> None:
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

    def _look_at_rows(self, head: ClassificationHead) -> "_Seen | None":
        """What the head is given of training rows; None of a stream."""
        rows = evenly_spaced(self.trainer.train_dataloader)
        if rows is None:
            return None
        pooled: list[tuple[Tensor, Tensor]] = []
        compared: list[tuple[Tensor, Tensor]] = []
        present: list[tuple[Tensor, Tensor]] = []
        labels: list[Tensor] = []

        def keep(_: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
            if options.get("first_two_only"):  # a second look at the same
                return
            image, text, *_ = inputs[0]
            pooled.append((image.float().cpu(), text.float().cpu()))

        def keep_compared(agreement: Agreement, inputs: tuple[Any, ...]) -> None:
            image, text = agreement.summaries(*inputs[:2])
            compared.append((image.float().cpu(), text.float().cpu()))

        plugin = self.trainer.precision_plugin
        # an encoder that is trained may have parts that sleep
        modes = [(module, module.training) for module in self.model.modules()]
        handles = [head.register_forward_pre_hook(keep, with_kwargs=True)]
        if head.agreement is not None:
            handles.append(head.agreement.register_forward_pre_hook(keep_compared))
        self.model.eval()
        try:
            silent = self.trainer.global_rank > 0
            for batch in track(rows, "Looking at rows", transient=True, disable=silent):
                check_batch(batch, self.task, self.num_classes)
                moved = self.trainer.strategy.batch_to_device(plugin.convert_input(batch))
                with torch.no_grad(), plugin.forward_context():
                    self.model.forward(moved)  # a call would start the compiler
                everyone = torch.ones(len(batch["labels"]), dtype=torch.bool)
                present.append(
                    (
                        batch.get("image_present", everyone).bool().cpu(),
                        batch.get("text_present", everyone).bool().cpu(),
                    )
                )
                labels.append(batch["labels"].cpu())
        finally:
            for handle in handles:
                handle.remove()
            for module, training in modes:
                module.training = training
        targets = torch.cat(labels)
        if self.task == "multiclass":
            targets = F.one_hot(targets.long(), self.num_classes)
        image, text = map(PooledRows, _concatenated(pooled), _concatenated(present))
        return _Seen(image, text, targets, _concatenated(compared) if compared else None)


@dataclass(frozen=True)
class _Seen:
    """What the head is given of R rows.

    Args:
        image: pooled of the pictures.
        text: pooled of the texts.
        targets: ``(R, C)``.
        compared: what the similarity compares, ``(R, d_v)`` and ``(R, d_t)``; None without it.
    """

    image: PooledRows
    text: PooledRows
    targets: Tensor
    compared: tuple[Tensor, Tensor] | None


def _concatenated(batches: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    images, texts = zip(*batches, strict=True)
    return torch.cat(images), torch.cat(texts)


def evenly_spaced(loader: Any) -> DataLoader[Any] | None:
    """Up to 512 rows of what a training loader reads, in its batches.

    None of a stream, which has no rows to choose from, or of fewer rows than say anything.
    """
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return None
    dataset: Any = loader.dataset
    total = len(dataset)
    if total < FEWEST_ROWS:
        return None
    rows = min(total, _MOST_ROWS)
    return DataLoader(
        Subset(dataset, [row * total // rows for row in range(rows)]),
        batch_size=loader.batch_size or 1,
        collate_fn=loader.collate_fn,
        num_workers=loader.num_workers,
        worker_init_fn=loader.worker_init_fn,
        generator=torch.Generator(),  # of its own, which leaves torch's global one alone
    )
