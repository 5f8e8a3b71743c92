"""From rows that were read to lines of a report."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from epic_pl.inspection.findings import Level, Problem

_SHOWN = 5
_MUCH_TRUNCATED = 0.1
_MISSING = ["nan", "none", "<na>"]
_KINDS = {
    "missing": "pictures are missing",
    "outside": "pictures lie outside of the image root",
    "corrupt": "pictures are corrupt",
}

_MEND = "Mend them, or set on_bad_sample: skip leaves these rows out, absent keeps their text."
_WAYS_OUT = {
    "missing": _MEND,
    "corrupt": _MEND,
    "outside": "Move them into it, or give one that holds them all (image_root, if there is one); "
    "a table may also set allow_outside to true.",
}

Mask = npt.NDArray[np.bool_]


def _mask(condition: Any) -> Mask:
    return np.asarray(pc.fill_null(condition, False)).astype(bool)


def _examples(rows: pa.Table, mask: Mask, extra: str | None = None) -> list[str]:
    """``train 17: ...`` for the first rows of a mask."""
    shown = rows.take(pa.array(np.flatnonzero(mask)[:_SHOWN])).to_pylist()
    return [
        f"{row['split']} {row['sample_id']}" + (f": {row[extra]}" if extra else "") for row in shown
    ]


def picture_problems(rows: pa.Table, policy: str) -> Iterator[Problem]:
    """Missing, outside and corrupt pictures; what they mean depends on the policy for them."""
    for kind, words in _KINDS.items():
        mask = _mask(pc.equal(rows["kind"], kind))
        if not mask.any():
            continue
        pictures = pc.count_distinct(rows["image"].filter(pa.array(mask))).as_py()
        refused = policy == "error" or kind == "outside"  # no policy lets a path lead out
        fate = {"skip": ": these rows are skipped", "absent": ": these rows lose their picture"}
        text = f"{pictures:,} {words}, in {mask.sum():,} rows{'' if refused else fate[policy]}"
        examples = _examples(rows, mask, "problem") + ([_WAYS_OUT[kind]] if refused else [])
        yield Problem("error" if refused else "warning", text, examples)
    if policy != "error":
        yield from _loss_problems(rows, policy)
    absent = _mask(pc.is_null(rows["image"]))
    if absent.any():
        yield Problem("note", f"{absent.sum():,} rows have no picture (absent modality)")


def size_problems(rows: pa.Table) -> Iterator[Problem]:
    """How large the pictures are, in pixels, by their shorter side."""
    sides = pc.min_element_wise(rows["width"], rows["height"]).drop_null().to_numpy()
    if sides.size:
        text = (
            f"Pictures have a shorter side of {np.median(sides):.0f} pixels (median), 95% at least "
            f"{np.percentile(sides, 5):.0f}; from {sides.min()} to {sides.max()}"
        )
        yield Problem("note", text)


def _loss_problems(rows: pa.Table, policy: str) -> Iterator[Problem]:
    """Splits and classes that have rows, but none of those that training would keep."""
    lost = _mask(pc.is_in(rows["kind"], value_set=pa.array(["missing", "corrupt"])))
    if policy == "absent":  # the text stays, if there is one
        lost &= _mask(pc.is_null(rows["text"]))
    split = np.array(rows["split"].to_pylist())
    for name in ("train", "val", "test"):
        here = split == name
        if here.any() and not (here & ~lost).any():
            level: Level = "warning" if name == "test" else "error"
            yield Problem(level, f"The {name} split is empty without the rows that are skipped")
    train = rows.filter(pa.array(split == "train"))
    left = _classes(train.filter(pa.array(~lost[split == "train"])))
    gone = sorted(_classes(train) - left)
    if gone:
        text = f"{len(gone)} classes lose all of their training rows with those that are skipped"
        yield Problem("warning" if len(left) > 1 else "error", text, gone[:_SHOWN])


def _classes(rows: pa.Table) -> set[str]:
    """Names of classes that occur; a multilabel cell has several."""
    cells = pc.unique(rows["label"]).to_pylist()
    return {name for cell in cells if cell for name in cell.split("|")}


def text_problems(rows: pa.Table, max_tokens: int) -> Iterator[Problem]:
    """Absent, empty and truncated texts."""
    absent = _mask(pc.is_null(rows["text"]))
    if absent.any():
        yield Problem("note", f"{absent.sum():,} rows have no text (absent modality)")
    empty = _mask(pc.equal(pc.utf8_trim_whitespace(rows["text"].cast(pa.string())), ""))
    if empty.any():
        yield Problem("warning", f"{empty.sum():,} texts are empty", _examples(rows, empty))
    written = pc.utf8_lower(pc.utf8_trim_whitespace(rows["text"].cast(pa.string())))
    missing = _mask(pc.is_in(written, value_set=pa.array(_MISSING)))
    if missing.sum() > 1:
        yield Problem(
            "warning",
            f"{missing.sum():,} texts are what pandas writes for a missing one (nan, None); an "
            "absent text is an empty cell",
            _examples(rows, missing),
        )
    tokens = rows["tokens"].drop_null().to_numpy()
    if tokens.size and max_tokens:
        long = float((tokens > max_tokens).mean())
        text = (
            f"Texts have {np.median(tokens):.0f} tokens (median), 95% at most "
            f"{np.percentile(tokens, 95):.0f}; {long:.1%} are truncated at {max_tokens}"
        )
        yield Problem("warning" if long > _MUCH_TRUNCATED else "note", text)


def label_problems(
    rows: pa.Table,
    counts: Mapping[str, npt.NDArray[np.int64]],
    names: Sequence[str],
    predict_split: str,
) -> Iterator[Problem]:
    """Empty splits, unknown labels, and classes too rare to learn or to measure."""
    split = np.array(rows["split"].to_pylist())
    unknown = _mask(pc.is_null(rows["label"]))
    for name in ("train", "val", "test"):
        here = split == name
        level: Level = "warning" if name == "test" else "error"
        if not here.any():
            yield Problem(level, f"The {name} split is empty")
        elif (here & unknown).any():
            text = f"{(here & unknown).sum():,} labels of the {name} split are unknown"
            yield Problem(level, text, _examples(rows, here & unknown))
    if predict_split == "predict" and (split == "predict").any():
        yield Problem("note", f"{(split == 'predict').sum():,} rows are for predict")
    train = counts.get("train")
    if train is None:
        return
    if len(names) > 1 and (train > 0).sum() < 2:
        yield Problem("error", "Training holds fewer than two classes: nothing to tell apart")
    rare = [names[i] for i in np.flatnonzero(train == 1).tolist()]
    if rare:
        yield Problem("warning", f"{len(rare)} classes have one training row only", rare[:_SHOWN])
    for name, count in counts.items():
        unseen = [names[i] for i in np.flatnonzero((train == 0) & (count > 0)).tolist()]
        if unseen:
            text = f"{len(unseen)} classes of the {name} split never occur in training"
            yield Problem("warning", text, unseen[:_SHOWN])
        lacking = [names[i] for i in np.flatnonzero((train > 0) & (count == 0)).tolist()]
        if lacking and name in ("val", "test"):
            text = f"{len(lacking)} classes have no row in the {name} split"
            yield Problem("note", text, lacking[:_SHOWN])
    yield from _lookalikes(names)


def _lookalikes(names: Sequence[str]) -> Iterator[Problem]:
    folded: dict[str, list[str]] = {}
    for name in names:
        folded.setdefault(" ".join(name.casefold().split()), []).append(name)
    alike = [" / ".join(map(repr, group)) for group in folded.values() if len(group) > 1]
    if alike:
        yield Problem("warning", "Classes that differ in case or blanks only", alike[:_SHOWN])


def leak_problems(rows: pa.Table) -> Iterator[Problem]:
    """The same content twice: within a split, across splits, or under two labels."""
    split = _codes(rows["split"])
    picture, text = _codes(rows["content"]), _codes(rows["text"])
    yield from _copies(rows, split, picture)
    both = np.unique(picture * (text.max(initial=0) + 2) + text, return_inverse=True)[1]
    known = (picture >= 0) | (text >= 0)
    # rows to predict may well be those of the test split: neither is trained on
    seen_as = _codes(pc.replace_substring_regex(rows["split"], "^predict$", "test"))
    across = _in_several(picture, seen_as, picture >= 0)
    if across.any():
        number = len(np.unique(picture[across]))
        yield Problem(
            "warning",
            f"{number:,} pictures, by content, are in more than one split ({across.sum():,} rows)",
            _grouped(rows, across, picture, "image"),
        )
    pairs = _in_several(both, seen_as, known)
    if pairs.any():
        number = len(np.unique(both[pairs]))
        yield Problem(
            "warning",
            f"{number:,} samples, by picture and text, are in more than one split",
            _grouped(rows, pairs, both, "sample_id"),
        )
    words = (text >= 0) & ~pairs & _in_several(text, seen_as, text >= 0)
    if words.any():
        yield Problem(
            "note",
            f"{len(np.unique(text[words])):,} texts are in more than one split, with other "
            f"pictures ({words.sum():,} rows). Where a text tells one thing from all others, as a "
            "product's title does, name the splits in a column",
            _grouped(rows, words, text, "sample_id"),
        )
    within = known & (_counts(both * (split.max(initial=0) + 1) + split) > 1)
    if within.any():
        yield Problem(
            "warning",
            f"{within.sum():,} rows have the picture and text of another row of their split",
            _grouped(rows, within, both, "sample_id"),
        )
    unlike = _in_several(both, _codes(rows["label"]), known & ~_mask(pc.is_null(rows["label"])))
    if unlike.any():
        yield Problem(
            "warning",
            f"{unlike.sum():,} rows have the same picture and text under different labels",
            _grouped(rows, unlike, both, "label"),
        )


def _copies(
    rows: pa.Table, split: npt.NDArray[np.int64], picture: npt.NDArray[np.int64]
) -> Iterator[Problem]:
    """Files of a split that hold the very picture of another one of it."""
    splits = split.max(initial=0) + 1
    here, file = picture * splits + split, _codes(rows["image"]) * splits + split
    once = np.zeros(len(here), dtype=bool)
    once[np.unique(file, return_index=True)[1]] = True  # one row a file, of all that name it
    copied = once & (picture >= 0)
    copied[copied] = _counts(here[copied]) > 1
    if copied.any():
        yield Problem(
            "note",
            f"{copied.sum():,} files of {len(np.unique(here[copied])):,} pictures: one content "
            "under several names in a split",
            _grouped(rows, copied, here, "image"),
        )


def _codes(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """A number for each distinct value, -1 for null."""
    coded = column.cast(pa.string()).combine_chunks()
    if isinstance(coded, pa.ChunkedArray):
        coded = pa.concat_arrays(coded.chunks) if coded.chunks else pa.array([], pa.string())
    indices = pc.fill_null(coded.dictionary_encode().indices, -1)
    return np.asarray(indices).astype(np.int64)


def _counts(codes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """How often each row's code occurs."""
    _, inverse, count = np.unique(codes, return_inverse=True, return_counts=True)
    return count[inverse].astype(np.int64)


def _in_several(group: npt.NDArray[np.int64], of: npt.NDArray[np.int64], known: Mask) -> Mask:
    """Rows whose group occurs with more than one value of ``of``."""
    found = np.zeros(len(group), dtype=bool)
    pairs = np.unique(np.stack([group[known], of[known]], axis=1), axis=0)
    groups, count = np.unique(pairs[:, 0], return_counts=True)
    found[known] = np.isin(group[known], groups[count > 1])
    return found


def _grouped(rows: pa.Table, mask: Mask, group: npt.NDArray[np.int64], name: str) -> list[str]:
    """``train a.png = test b.png`` for the first groups."""
    shown = []
    for code in np.unique(group[mask])[:_SHOWN]:
        members = rows.take(pa.array(np.flatnonzero(mask & (group == code))[:4])).to_pylist()
        shown.append(
            " = ".join(dict.fromkeys(f"{row['split']} {row[name]}" for row in members))
            if name != "sample_id"
            else " = ".join(f"{row['split']} {row['sample_id']}" for row in members)
        )
    return shown
