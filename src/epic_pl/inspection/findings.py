"""What a check has found."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Level = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Problem:
    """One line of the report.

    Attributes:
        level: an ``error`` keeps training from starting; a ``warning`` asks for a look.
        text: what is the matter, and how often.
        examples: rows or files, named.
    """

    level: Level
    text: str
    examples: Sequence[str] = ()


@dataclass
class Findings:
    """What a check has found.

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
    class_counts: dict[str, npt.NDArray[np.int64]]
    problems: list[Problem] = field(default_factory=list)
    max_text_tokens: int = 0
    sources: list[str | None] = field(default_factory=list, repr=False)

    @property
    def can_train(self) -> bool:
        """Whether nothing found keeps training from starting."""
        return not any(problem.level == "error" for problem in self.problems)
