"""Findings of a data check: problems of images, texts and labels."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Level = Literal["error", "warning", "note"]
Counts = npt.NDArray[np.int64]

SHOWN = 5  # examples of a problem
_MAX_TRUNCATED = 0.1
_FIX = "Fix them, or set on_bad_sample: skip leaves these rows out, absent keeps their text."
_WAYS_OUT = {
    "missing": _FIX,
    "outside": "Move them into the image root, or name one that holds them all.",
    "corrupt": _FIX,
}
_FATES = {"skip": ": these rows are skipped", "absent": ": these rows lose their image"}


@dataclass(frozen=True)
class Problem:
    """One line of the report.

    Attributes:
        level: an ``error`` prevents training; a ``warning`` should be reviewed.
        text: the problem and its number of occurrences.
        examples: rows or files.
    """

    level: Level
    text: str
    examples: Sequence[str] = ()


@dataclass
class Findings:
    """Findings of a data check.

    Attributes:
        name: class name of the DataModule.
        class_names: C names.
        rows: one row per sample: ``split, sample_id, image, text, label, kind, problem, width,
            height, content, tokens``; labels are names, ``kind`` and ``problem`` its image's.
        class_counts: number of rows of each class, ``(C,)``, by split, without skipped rows.
        problems: lines of the report.
        max_text_tokens: number of tokens at which texts are truncated.
        image_roots: folder of each split's image paths.
    """

    name: str
    class_names: list[str]
    rows: pa.Table
    class_counts: dict[Any, Counts]
    problems: list[Problem] = field(default_factory=list)
    max_text_tokens: int = 0
    image_roots: dict[Any, Path] = field(default_factory=dict)

    @property
    def can_train(self) -> bool:
        """Whether no problem prevents training."""
        return not any(problem.level == "error" for problem in self.problems)

    @property
    def verdict(self) -> str:
        """Whether training can start, in one sentence."""
        errors = sum(problem.level == "error" for problem in self.problems)
        return f"Training cannot start: {errors} errors." if errors else "Training can start."


def _problem(
    level: Level, rows: pa.Table, text: str, extra: str = "", way_out: str = ""
) -> Iterator[Problem]:
    """A problem of some rows, if there are any: their number and ``text``.

    Examples are ``train 17``, with the column ``extra`` if given, and then ``way_out``.
    """
    if rows.num_rows:
        examples = [
            f"{row['split']} {row['sample_id']}" + (f": {row[extra]}" if extra else "")
            for row in rows.slice(0, SHOWN).to_pylist()
        ] + [way_out] * bool(way_out)
        yield Problem(level, f"{rows.num_rows:,} {text}", () if level == "note" else examples)


def kept_rows(rows: pa.Table, policy: str) -> pa.ChunkedArray:
    """Mask of the rows that training keeps under a policy for bad images."""
    lost = pc.is_in(rows["kind"], value_set=pa.array(["missing", "corrupt"]))
    if policy == "absent":  # rows with a text are kept
        lost = pc.and_(lost, pc.is_null(rows["text"]))
    return pc.or_(pc.invert(lost), policy == "error")


def image_problems(rows: pa.Table, policy: str) -> Iterator[Problem]:
    """Missing, outside and corrupt images: errors, unless the policy accepts them; sizes."""
    for kind, way_out in _WAYS_OUT.items():
        bad = rows.filter(pc.equal(rows["kind"], kind))
        text = f"rows have an image that is {kind}"
        if policy == "error" or kind == "outside":  # paths outside of the root are always errors
            yield from _problem("error", bad, text, "problem", way_out)
        else:
            yield from _problem("warning", bad, text + _FATES[policy], "problem")
    absent = rows.filter(pc.is_null(rows["image"]))
    yield from _problem("note", absent, "rows have no image (absent modality)")
    sides = pc.min_element_wise(rows["width"], rows["height"]).drop_null().to_numpy()
    if sides.size:
        text = (
            f"Images have a shorter side of {np.median(sides):.0f} pixels (median), 95% at least "
            f"{np.percentile(sides, 5):.0f}; from {sides.min()} to {sides.max()}"
        )
        yield Problem("note", text)


def text_problems(rows: pa.Table, max_tokens: int) -> Iterator[Problem]:
    """Absent, empty and truncated texts."""
    text = pc.utf8_lower(pc.utf8_trim_whitespace(rows["text"]))
    conditions: list[tuple[Level, Any, str]] = [
        ("note", pc.is_null(text), "rows have no text (absent modality)"),
        ("warning", pc.equal(text, ""), "texts are empty"),
        ("warning", pc.equal(text, "nan"), "texts are nan: leave the cells of absent ones empty"),
    ]
    for level, condition, message in conditions:
        yield from _problem(level, rows.filter(condition), message)
    tokens = rows["tokens"].drop_null().to_numpy()
    if tokens.size:
        truncated = float((tokens > max_tokens).mean())
        message = (
            f"Texts have {np.median(tokens):.0f} tokens (median), 95% at most "
            f"{np.percentile(tokens, 95):.0f}; {truncated:.1%} are truncated at {max_tokens}"
        )
        yield Problem("warning" if truncated > _MAX_TRUNCATED else "note", message)


def label_problems(
    rows: pa.Table, counts: Mapping[Any, Counts], names: Sequence[str], predict_split: str
) -> Iterator[Problem]:
    """Empty splits, unknown labels, and classes too rare to learn or to measure.

    Args:
        rows: rows that training keeps.
        counts: number of rows of each class ``(C,)``, by split.
        names: C names of classes.
        predict_split: split that ``predict`` reads.
    """
    for name in ("train", "val", "test"):
        here = rows.filter(pc.equal(rows["split"], name))
        level: Level = "warning" if name == "test" else "error"
        if not here.num_rows:
            yield Problem(level, f"The {name} split has no usable row")
        unknown = here.filter(pc.is_null(here["label"]))
        yield from _problem(level, unknown, f"labels of the {name} split are unknown")
    if predict_split == "predict":
        here = rows.filter(pc.equal(rows["split"], "predict"))
        yield from _problem("note", here, "rows are for predict")
    if "train" not in counts:
        return
    train = counts["train"]
    if len(names) > 1 and (train > 0).sum() < 2:
        yield Problem("error", "Training rows have fewer than two classes")
    masks: list[tuple[Level, Any, str]] = [
        ("warning", train == 0, "classes never occur in training"),
        ("warning", train == 1, "classes have one training row only"),
    ]
    for name in counts.keys() & {"val", "test"}:
        rare = (train > 0) & (counts[name] == 0)
        masks.append(("note", rare, f"classes have no row in the {name} split"))
    for level, mask, text in masks:
        if mask.any():
            shown = [names[index] for index in np.flatnonzero(mask)[:SHOWN]]
            yield Problem(level, f"{mask.sum()} {text}", shown)
    folded: dict[str, list[str]] = {}
    for class_name in names:
        folded.setdefault(" ".join(class_name.casefold().split()), []).append(class_name)
    alike = [" / ".join(map(repr, group)) for group in folded.values() if len(group) > 1]
    if alike:
        yield Problem("warning", "Classes that differ in case or white space only", alike[:SHOWN])
