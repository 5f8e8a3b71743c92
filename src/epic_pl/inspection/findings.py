"""Findings of a data check."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Level = Literal["error", "warning", "note"]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Problem:
    """One line of the report.

    Attributes:
        level: an ``error`` prevents training; a ``warning`` deserves a look.
        text: the problem, and how often it occurs.
        examples: rows or files.
    """

    level: Level
    text: str
    examples: Sequence[str] = ()


@dataclass
class Findings:
    """Findings of a data check.

    Attributes:
        name: of the DataModule.
        class_names: C names.
        rows: one a sample: ``split, sample_id, image, text, label, kind, problem, width, height,
            content, tokens``; labels are names, ``kind`` and ``problem`` are of its picture.
        class_counts: rows of each class, ``(C,)``, by split.
        problems: lines of the report.
        max_text_tokens: where longer texts are cut.
        sources: full path of each row's picture, or None.
    """

    name: str
    class_names: list[str]
    rows: pa.Table
    class_counts: dict[Any, Counts]
    problems: list[Problem] = field(default_factory=list)
    max_text_tokens: int = 0
    sources: list[str | None] = field(default_factory=list, repr=False)

    @property
    def can_train(self) -> bool:
        """Whether no problem prevents training."""
        return not any(problem.level == "error" for problem in self.problems)
