"""Training rows as a model sees them before its first step.

Shape legend: R rows, P vectors of a modality, C classes, d width.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Self

import lightning as L
import torch
import torch.nn.functional as F
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from lightning.pytorch.utilities import rank_zero_info
from rich.progress import track
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
)

from epic_pl.data.loading.sampler import TrainSampler
from epic_pl.module.modality_balance import FEWEST_ROWS, PooledRows
from epic_pl.nn.heads.classification import ClassificationHead
from epic_pl.nn.heads.similarity import Agreement
from epic_pl.types import Batch, Task
from epic_pl.validate import check_batch

_MOST_ROWS = 512
_READ_ALL = (SequentialSampler, RandomSampler, DistributedSampler)


@dataclass(frozen=True)
class SeenRows:
    """What the head is given of R rows.

    Args:
        image: what the encoder says of the pictures.
        text: the same of the texts.
        targets: ``(R, C)``.
        compared: what the similarity compares, ``(R, P d_v)``, ``(R, P d_t)``; None without it.
        alone: what a sample that lacks the other modality shows of a picture, and of a text; None
            where the head has nothing of its own for it.
    """

    image: PooledRows
    text: PooledRows
    targets: Tensor
    compared: tuple[Tensor, Tensor] | None
    alone: tuple[PooledRows, PooledRows] | None


def look_at_rows(
    model: nn.Module, head: ClassificationHead, trainer: L.Trainer, task: Task, num_classes: int
) -> SeenRows | None:
    """What ``head`` is given of up to 512 training rows, evenly spaced; None of a stream.

    Raises:
        DataError: if a batch is not what a step could take.
    """
    rows = evenly_spaced(trainer.train_dataloader)
    if rows is None:
        return None
    plugin = trainer.precision_plugin
    with _evaluating(model), _Recorder(head) as recorder:
        for batch in track(rows, "Looking at rows", transient=True):
            check_batch(batch, task, num_classes)
            moved = trainer.strategy.batch_to_device(plugin.convert_input(batch))
            with torch.no_grad(), plugin.forward_context():
                model.forward(moved)  # a call would start the compiler
            recorder.keep_batch(batch)
    return recorder.seen(num_classes if task == "multiclass" else None)


def evenly_spaced(loader: Any) -> DataLoader[Any] | None:
    """Up to 512 rows of those that a training loader reads, in its batches.

    None of a stream, which has no rows to choose from, or of fewer rows than say anything.
    """
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return None
    trained = _rows_read(loader)
    total = len(trained)
    if total < FEWEST_ROWS:
        return None
    rows = min(total, _MOST_ROWS)
    return DataLoader(
        Subset(loader.dataset, [trained[row * total // rows] for row in range(rows)]),
        batch_size=loader.batch_size or 1,
        collate_fn=loader.collate_fn,
        num_workers=loader.num_workers,
        worker_init_fn=loader.worker_init_fn,
        generator=torch.Generator(),  # of its own, which leaves torch's global one alone
    )


def _rows_read(loader: DataLoader[Any]) -> Sequence[int]:
    """Indices of the rows that a loader reads, rising; others may be held out for a test.

    Of a sampler that is not known to read them all, a copy is asked for an epoch; there are none
    where that fails.
    """
    dataset: Any = loader.dataset
    batches: Any = loader.batch_sampler
    usual = batches is None or type(batches) is BatchSampler
    # one that comes inside of a batch sampler is not the loader's
    sampler: Any = batches.sampler if usual and batches is not None else loader.sampler
    if isinstance(sampler, DistributedSamplerWrapper):  # a rank's share of any other
        wrapped: Any = sampler.dataset
        sampler, usual = wrapped._sampler, True
    reads_all = type(sampler) in _READ_ALL or isinstance(sampler, TrainSampler)
    source: Any = getattr(sampler, "data_source", getattr(sampler, "dataset", ()))
    if usual and reads_all and len(source) == len(dataset):
        return range(len(dataset))
    try:
        # without the dataset, which may be large
        chosen = deepcopy(sampler if usual else batches, {id(dataset): dataset})
        drawn = chosen if usual else chain.from_iterable(chosen)
        return sorted(set(islice(drawn, len(dataset))))
    except Exception as error:  # of somebody else's class: a fit can do without
        rank_zero_info(f"Training rows are not looked at, their sampler cannot be: {error!r}")
        return []


class _Recorder:
    """Keeps what a head and its similarity are given, batch by batch, while it is entered."""

    def __init__(self, head: ClassificationHead) -> None:
        self._head = head
        self._pooled: list[tuple[Tensor, Tensor]] = []
        self._alone: list[tuple[Tensor, Tensor]] = []
        self._compared: list[tuple[Tensor, Tensor]] = []
        self._present: list[tuple[Tensor, Tensor]] = []
        self._labels: list[Tensor] = []

    def __enter__(self) -> Self:
        self._handles = [self._head.register_forward_pre_hook(self._keep_said, with_kwargs=True)]
        if self._head.agreement is not None:
            hook = self._head.agreement.register_forward_pre_hook(self._keep_compared)
            self._handles.append(hook)
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def keep_batch(self, batch: Batch) -> None:
        """Keep what a batch says of itself."""
        everyone = torch.ones(len(batch["labels"]), dtype=torch.bool)
        image = batch.get("image_present", everyone).bool().cpu()
        text = batch.get("text_present", everyone).bool().cpu()
        self._present.append((image, text))
        self._labels.append(batch["labels"].cpu())

    def seen(self, num_classes: int | None) -> SeenRows:
        """All that was kept; labels are numbers of ``num_classes``, or multi-hot for None."""
        targets = torch.cat(self._labels)
        if num_classes is not None:
            targets = F.one_hot(targets.long(), num_classes)
        return SeenRows(
            *self._rows(self._pooled),
            targets,
            _concatenated(self._compared) if self._compared else None,
            self._rows(self._alone) if self._alone else None,
        )

    def _rows(self, kept: Sequence[tuple[Tensor, Tensor]]) -> tuple[PooledRows, PooledRows]:
        image, text = map(PooledRows, _concatenated(kept), _concatenated(self._present))
        return image, text

    def _keep_said(self, _: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
        if options.get("summaries_only"):  # a second look at the same
            return
        self._pooled.append(_apart(inputs[0][: self._head.summaries]))
        if self._head.alone is not None:
            self._alone.append(_apart(inputs[1][: self._head.alone.summaries]))

    def _keep_compared(self, agreement: Agreement, inputs: tuple[Any, ...]) -> None:
        image, text = agreement.summaries(*inputs[:2])
        self._compared.append((image.float().cpu(), text.float().cpu()))


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; an encoder that is trained may have parts that sleep afterwards too."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _apart(vectors: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """``(B, P, d)`` of pictures, and of texts, from vectors ``(B, d)`` of both in turn."""
    vectors = [vector.float().cpu() for vector in vectors]
    return torch.stack(vectors[0::2], dim=1), torch.stack(vectors[1::2], dim=1)


def _concatenated(batches: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    images, texts = zip(*batches, strict=True)
    return torch.cat(images), torch.cat(texts)
