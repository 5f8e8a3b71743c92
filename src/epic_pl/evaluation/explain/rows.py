"""Choice of the rows of a split that are explained."""

from collections.abc import Sequence
from typing import Any, cast

from torch.utils.data import Dataset

from epic_pl.errors import DataError
from epic_pl.types import Sample


def spread_rows(dataset: Dataset[Sample], count: int) -> list[int]:
    """``count`` rows at even distances, since tables are often sorted; all, if there are fewer."""
    rows = len(cast(Any, dataset))
    count = min(count, rows)
    return [number * rows // count for number in range(count)]


def named_rows(dataset: Dataset[Sample], names: Sequence[str]) -> list[int]:
    """Rows of the samples with these ids, in this order.

    Raises:
        DataError: if the split has no such sample.
    """
    # reading a whole row would decode its picture
    read: Any = getattr(dataset, "reference", dataset.__getitem__)
    row_of = {read(row)["sample_id"]: row for row in range(len(cast(Any, dataset)))}
    missing = sorted(set(names) - set(row_of))
    if missing:
        raise DataError(
            f"There is no sample {', '.join(missing)} in this split, whose first one is "
            f"{next(iter(row_of))}: correct --samples, or choose another --split."
        )
    return [row_of[name] for name in names]
