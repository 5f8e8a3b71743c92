"""The outputs of a pass over a split, gathered from its batches and from all ranks.

Shape legend: B batch, N samples, C classes.
"""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from epic_pl.module.ranks import gather_objects
from epic_pl.utils.errors import DataError
from epic_pl.utils.types import Batch

_NONE = torch.empty(0, dtype=torch.bool)  # torch.cat accepts it beside tensors of any shape


class SplitOutputs(NamedTuple):
    """Outputs of validation, test or prediction on the CPU, in the order of the data."""

    logits: Tensor
    """``(N, C)`` float32."""
    labels: Tensor = _NONE
    """``(N,)`` class indices or ``(N, C)`` 0/1; ``(0,)`` if batches have none."""
    image_present: Tensor = _NONE
    """``(N,)`` bool."""
    text_present: Tensor = _NONE
    """``(N,)`` bool."""
    sample_id: Sequence[str] = ()
    """N ids; empty if batches have none."""
    image_path: Sequence[str | None] = ()
    """N names of images, None for a sample without one; empty if batches have none."""
    candidates: Tensor = _NONE
    """``(N, k, C)``: logits of which the head chooses one; ``(0,)`` if it has no choice."""

    @classmethod
    def of_batch(
        cls, batch: Batch, logits: Tensor, candidates: Tensor | None = None
    ) -> "SplitOutputs":
        """Outputs of a batch, as copies, since a tensor of a loader's worker keeps a file open."""
        tensors = batch.get("labels", _NONE), *presence_masks(batch)
        labels, image, text = (tensor.to("cpu", copy=True) for tensor in tensors)
        names = [name or None for name in batch.get("image_path", ())]
        given = logits, _NONE if candidates is None else candidates
        scores, choice = (values.detach().to("cpu", torch.float32) for values in given)
        return cls(scores, labels, image, text, batch.get("sample_id", ()), names, choice)

    @classmethod
    def concatenate(cls, parts: Sequence["SplitOutputs"]) -> "SplitOutputs":
        """Join the outputs of several batches or ranks."""

        def join(values: Sequence[Any]) -> Any:
            tensors = isinstance(values[0], Tensor)
            return torch.cat(list(values)) if tensors else list(chain.from_iterable(values))

        return cls(*map(join, zip(*parts, strict=True)))


def presence_masks(batch: Batch) -> tuple[Tensor, Tensor]:
    """``image_present`` and ``text_present`` of a batch, each ``(B,)`` bool on the CPU."""
    present = torch.ones(len(batch["attention_mask"]), dtype=torch.bool)
    return (
        batch.get("image_present", present).bool().cpu(),
        batch.get("text_present", present).bool().cpu(),
    )


def warn_of_absence(
    batch: Batch,
    class_names: Sequence[str],
    never_missing: Callable[[], Sequence[str]],
    warned: set[str],
) -> None:
    """Warn if a batch lacks a modality that no training sample lacked; each modality once.

    Modalities that were warned of are kept in ``warned``.
    """
    classes = ", ".join(class_names[:3]) + ", ..." * (len(class_names) > 3)
    masks = {"image": batch.get("image_present"), "text": batch.get("text_present")}
    for name, mask in masks.items():
        if mask is None or name in warned or mask.all():
            continue
        if name in never_missing():
            warned.add(name)
            rank_zero_warn(
                f"Samples lack the {name}, but every training sample had it: the model has not "
                f"learned to predict {classes} without it. Train with model.modality_dropout, or "
                "on such samples.",
                stacklevel=10**6,  # hides the line of code, which would be one of this package
            )


def merge_ranks(parts: Sequence[SplitOutputs]) -> SplitOutputs:
    """Join the outputs of all ranks in the order of the data.

    Row j of rank r is row ``j * ranks + r`` of the data. Samplers may repeat up to ``ranks - 1``
    samples at the end, so that all ranks have equally many; these repetitions are dropped by id.
    """
    if len(parts) == 1:
        return parts[0]
    joined = SplitOutputs.concatenate(parts)
    places = [(row, rank) for rank, part in enumerate(parts) for row in range(len(part.logits))]
    rows = sorted(range(len(places)), key=places.__getitem__)
    if ids := joined.sample_id:
        end = max(len(rows) - len(parts) + 1, 0)
        known = {ids[row] for row in rows[:end]}
        new = {ids[row]: row for row in reversed(rows[end:]) if ids[row] not in known}
        rows = rows[:end] + sorted(new.values(), key=places.__getitem__)

    def take(values: Any) -> Any:
        if not len(values):
            return values
        return values[rows] if isinstance(values, Tensor) else [values[row] for row in rows]

    return SplitOutputs(*map(take, joined))


class OutputCollector:
    """Gathers the outputs of a pass, batch by batch, and merges those of all ranks at its end.

    :class:`~epic_pl.module.EPICModule` keeps the outputs of validation and test, for callbacks from
    ``on_*_epoch_end`` on. It keeps outputs of prediction if a callback calls :meth:`start` in
    ``on_predict_start``. The next run drops them; training drops them after each validation.
    """

    def __init__(self, num_classes: int) -> None:
        self._empty = SplitOutputs(torch.empty(0, num_classes, dtype=torch.float32, device="cpu"))
        self._ranks = 1
        self._parts: list[SplitOutputs] | None = None
        self._merged: SplitOutputs | None = None

    def start(self, ranks: int = 1) -> None:
        """Keep the outputs of the next batches, which are shared by ``ranks`` processes."""
        self._ranks, self._parts, self._merged = ranks, [self._empty], None

    def clear(self) -> None:
        """Drop all outputs, and keep none until the next start."""
        self._parts = self._merged = None

    def add(self, batch: Batch, logits: Tensor, candidates: Tensor | None = None) -> None:
        """Keep the logits ``(B, C)`` of a batch, if outputs are kept."""
        if self._parts is not None:
            self._parts.append(SplitOutputs.of_batch(batch, logits, candidates))

    def merged(self, even: bool = False) -> SplitOutputs:
        """Outputs of all ranks, each sample once. All ranks must call this after the last batch.

        Args:
            even: check that the ranks' numbers of rows differ by at most one, as for one table.

        Raises:
            DataError: if they should be ``even`` and are not.
            RuntimeError: if no outputs are kept.
        """
        if self._merged is None:
            if self._parts is None:
                raise RuntimeError("No outputs are kept: read them in on_validation_epoch_end.")
            joined = SplitOutputs.concatenate(self._parts)
            parts = gather_objects(joined) if self._ranks > 1 else [joined]
            rows = [len(part.logits) for part in parts]
            if even and max(rows) - min(rows) > 1:
                raise DataError(f"Ranks have {rows} rows, so some are lost: run the command again.")
            self._merged, self._parts = merge_ranks(parts), None
        return self._merged
