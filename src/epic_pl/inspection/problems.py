"""Problems of pictures, texts and labels, from the rows of a check."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from epic_pl.inspection.findings import Counts, Level, Problem

Mask = npt.NDArray[np.bool_]

SHOWN = 5
"""Examples of a problem."""
_MAX_TRUNCATED = 0.1
_MISSING_TEXTS = ["nan", "none", "<na>"]
_MEND = "Mend them, or set on_bad_sample: skip leaves these rows out, absent keeps their text."
_KINDS = {
    "missing": ("pictures are missing", _MEND),
    "outside": (
        "pictures lie outside of the image root",
        "Move them into it, or give one that holds them all (image_root, if there is one).",
    ),
    "corrupt": ("pictures are corrupt", _MEND),
}
_FATES = {"skip": ": these rows are skipped", "absent": ": these rows lose their picture"}


def mask_of(condition: Any) -> Mask:
    """An Arrow condition as a numpy mask; null is false."""
    return np.asarray(pc.fill_null(condition, False)).astype(bool)


def _examples(rows: pa.Table, mask: Mask, extra: str | None = None) -> list[str]:
    """``train 17: ...`` for the first rows of a mask."""
    shown = rows.take(pa.array(np.flatnonzero(mask)[:SHOWN])).to_pylist()
    return [
        f"{row['split']} {row['sample_id']}" + (f": {row[extra]}" if extra else "") for row in shown
    ]


def _problem(level: Level, rows: pa.Table, mask: Mask, text: str) -> Iterator[Problem]:
    """A problem of the rows in a mask, if there are any: their number and ``text``."""
    if mask.any():
        examples = () if level == "note" else _examples(rows, mask)
        yield Problem(level, f"{mask.sum():,} {text}", examples)


def _listed(level: Level, names: Sequence[str], text: str) -> Iterator[Problem]:
    """A problem of some classes, if there are any: their number and ``text``."""
    if names:
        yield Problem(level, f"{len(names)} {text}", names[:SHOWN])


def picture_problems(rows: pa.Table, policy: str) -> Iterator[Problem]:
    """Missing, outside and corrupt pictures: errors, unless the policy accepts them."""
    for kind, (text, way_out) in _KINDS.items():
        mask = mask_of(pc.equal(rows["kind"], kind))
        if not mask.any():
            continue
        pictures = pc.count_distinct(rows["image"].filter(pa.array(mask))).as_py()
        refused = policy == "error" or kind == "outside"  # paths out of the root always are
        text = f"{pictures:,} {text}, in {mask.sum():,} rows"
        examples = _examples(rows, mask, "problem")
        if refused:
            yield Problem("error", text, [*examples, way_out])
        else:
            yield Problem("warning", text + _FATES[policy], examples)
    if policy != "error":
        yield from _dropped_rows(rows, policy)
    absent = mask_of(pc.is_null(rows["image"]))
    yield from _problem("note", rows, absent, "rows have no picture (absent modality)")


def _dropped_rows(rows: pa.Table, policy: str) -> Iterator[Problem]:
    """Splits and classes without any row that training would keep."""
    dropped = mask_of(pc.is_in(rows["kind"], value_set=pa.array(["missing", "corrupt"])))
    if policy == "absent":  # rows with a text are kept
        dropped &= mask_of(pc.is_null(rows["text"]))
    split = np.array(rows["split"].to_pylist())
    for name in ("train", "val", "test"):
        here = split == name
        if here.any() and not (here & ~dropped).any():
            level: Level = "warning" if name == "test" else "error"
            yield Problem(level, f"The {name} split is empty without the rows that are skipped")
    kept = _classes(rows.filter(pa.array((split == "train") & ~dropped)))
    lost = sorted(_classes(rows.filter(pa.array(split == "train"))) - kept)
    level = "warning" if len(kept) > 1 else "error"
    text = "classes lose all of their training rows with those that are skipped"
    yield from _listed(level, lost, text)


def _classes(rows: pa.Table) -> set[str]:
    """Names of the classes that occur; a multilabel cell has several."""
    cells = pc.unique(rows["label"]).to_pylist()
    return {name for cell in cells if cell for name in cell.split("|")}


def size_problems(rows: pa.Table) -> Iterator[Problem]:
    """Size of the pictures, by their shorter side."""
    sides = pc.min_element_wise(rows["width"], rows["height"]).drop_null().to_numpy()
    if sides.size:
        text = (
            f"Pictures have a shorter side of {np.median(sides):.0f} pixels (median), 95% at least "
            f"{np.percentile(sides, 5):.0f}; from {sides.min()} to {sides.max()}"
        )
        yield Problem("note", text)


def text_problems(rows: pa.Table, max_tokens: int) -> Iterator[Problem]:
    """Absent, empty and truncated texts."""
    text = pc.utf8_lower(pc.utf8_trim_whitespace(rows["text"].cast(pa.string())))
    absent = mask_of(pc.is_null(text))
    yield from _problem("note", rows, absent, "rows have no text (absent modality)")
    yield from _problem("warning", rows, mask_of(pc.equal(text, "")), "texts are empty")
    missing = mask_of(pc.is_in(text, value_set=pa.array(_MISSING_TEXTS)))
    if missing.sum() > 1:  # a single one may be meant
        message = (
            "texts are what pandas writes for a missing one (nan, None); an absent text is an "
            "empty cell"
        )
        yield from _problem("warning", rows, missing, message)
    tokens = rows["tokens"].drop_null().to_numpy()
    if tokens.size and max_tokens:
        truncated = float((tokens > max_tokens).mean())
        message = (
            f"Texts have {np.median(tokens):.0f} tokens (median), 95% at most "
            f"{np.percentile(tokens, 95):.0f}; {truncated:.1%} are truncated at {max_tokens}"
        )
        yield Problem("warning" if truncated > _MAX_TRUNCATED else "note", message)


def label_problems(
    rows: pa.Table, counts: Mapping[Any, Counts], names: Sequence[str], predict_split: str
) -> Iterator[Problem]:
    """Empty splits, unknown labels, and classes too rare to learn or to measure."""
    split = np.array(rows["split"].to_pylist())
    unknown = mask_of(pc.is_null(rows["label"]))
    for name in ("train", "val", "test"):
        here = split == name
        level: Level = "warning" if name == "test" else "error"
        if not here.any():
            yield Problem(level, f"The {name} split is empty")
        text = f"labels of the {name} split are unknown"
        yield from _problem(level, rows, here & unknown, text)
    if predict_split == "predict":
        yield from _problem("note", rows, split == "predict", "rows are for predict")
    train = counts.get("train")
    if train is None:
        return
    if len(names) > 1 and (train > 0).sum() < 2:
        yield Problem("error", "Training holds fewer than two classes: nothing to tell apart")

    def named(mask: Any) -> list[str]:
        return [names[index] for index in np.flatnonzero(mask).tolist()]

    yield from _listed("warning", named(train == 1), "classes have one training row only")
    for name, count in counts.items():
        text = f"classes of the {name} split never occur in training"
        yield from _listed("warning", named((train == 0) & (count > 0)), text)
        if name in ("val", "test"):
            text = f"classes have no row in the {name} split"
            yield from _listed("note", named((train > 0) & (count == 0)), text)
    folded: dict[str, list[str]] = {}
    for class_name in names:
        folded.setdefault(" ".join(class_name.casefold().split()), []).append(class_name)
    alike = [" / ".join(map(repr, group)) for group in folded.values() if len(group) > 1]
    if alike:
        yield Problem("warning", "Classes that differ in case or blanks only", alike[:SHOWN])
