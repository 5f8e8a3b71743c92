"""Which rows of a split are explained."""

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
    """The rows of samples, in the order that they are asked for.

    Raises:
        DataError: if the split has no such sample.
    """
    # reading a row whole decodes its picture
    of_row: Any = getattr(dataset, "reference", dataset.__getitem__)
    missing, found = set(names), {}
    for row in range(len(cast(Any, dataset))):
        if not missing:
            break
        name = of_row(row)["sample_id"]
        if name in missing:
            found[name] = row
            missing.remove(name)
    if missing:
        first = of_row(0)["sample_id"]
        raise DataError(
            f"There is no sample {', '.join(sorted(missing))} in this split, whose first one is "
            f"{first}: correct --samples, or choose another --split."
        )
    return [found[name] for name in names]
