"""Search for problems of images, texts and labels, and for repeated rows."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import chain
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from epic_pl.data.rows import RowsError, empty_rows
from epic_pl.data.tables.labels import MISSING
from epic_pl.utils.errors import DataError, counted

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")

_SHOWN = 5  # maximum number of examples of a problem
_MAX_TRUNCATED = 0.1
_MOST_SPLIT = 0.5  # maximum share of words that are split into several tokens
_FIX = "Fix them, or set on_bad_sample: skip leaves these rows out, absent those without a text."
_MOVE = "Move them into the image root, or name one that holds them all."
_FATES = {"error": "", "skip": ", which are skipped", "absent": ", which are kept without it"}


@dataclass(frozen=True)
class Problem:
    """A problem that the report lists.

    Attributes:
        severity: an ``error`` prevents training; a ``warning`` should be reviewed.
        text: the problem and its number of occurrences.
        examples: rows or files.
    """

    severity: Severity
    text: str
    examples: Sequence[str] = ()


def refusals(errors: Iterable[DataError]) -> Iterator[Problem]:
    """The errors of reading a table, each of which ends training."""
    for error in errors:
        if isinstance(error, RowsError):
            text = f"{error.problem} {counted(len(error.rows), 'rows')}"
            yield Problem("error", text, error.examples)
        else:
            yield Problem("error", str(error))


def _of_rows(
    severity: Severity, rows: pa.Table, mask: Any, text: str, column: str = "", way_out: str = ""
) -> Iterator[Problem]:
    """The problem of the rows in a mask, with their number; nothing if there are none.

    Examples look like ``train 17`` with the cell of ``column``; ``way_out`` ends the message.
    """
    rows = rows.filter(mask)
    if count := rows.num_rows:
        examples = [
            f"{row['split']} {row['sample_id']}" + (f": {row[column]}" if column else "")
            for row in rows.slice(0, _SHOWN).to_pylist()
        ] + [way_out] * bool(way_out)
        yield Problem(severity, f"{text}: {count:,}", () if severity == "note" else examples)


def kept_rows(rows: pa.Table, policy: str) -> pa.ChunkedArray:
    """Mask of the rows that training keeps under ``policy`` (``on_bad_sample``)."""
    lost = pc.is_in(rows["kind"], value_set=pa.array(["missing", "corrupt"]))
    if policy == "absent":  # it keeps rows that have a text
        lost = pc.and_(lost, pc.is_null(rows["text"]))
    lost = pc.or_(lost, empty_rows(rows))
    return pc.or_(pc.invert(lost), policy == "error")


def image_problems(rows: pa.Table, policy: str) -> Iterator[Problem]:
    """Bad images, empty rows and image sizes; the first two are errors if the policy says so."""
    severity: Severity = "error" if policy == "error" else "warning"
    way_out = _FIX if policy == "error" else ""
    for kind in ("missing", "corrupt"):
        text = f"Rows whose image is {kind}{_FATES[policy]}"
        yield from _of_rows(severity, rows, pc.equal(rows["kind"], kind), text, "problem", way_out)
    outside = pc.equal(rows["kind"], "outside")
    text = "Rows whose image is outside of the image root"
    yield from _of_rows("error", rows, outside, text, "problem", _MOVE)
    text = "Rows with neither image nor text"
    yield from _of_rows(severity, rows, empty_rows(rows), text, way_out=_FIX)
    absent = pc.and_(pc.is_null(rows["image"]), pc.is_valid(rows["text"]))
    yield from _of_rows("note", rows, absent, "Rows without an image (missing modality)")
    sides = pc.min_element_wise(rows["width"], rows["height"]).drop_null().to_numpy()
    if sides.size:
        low, median = np.percentile(sides, (5, 50))
        text = f"Images have a shorter side of {median:.0f} pixels (median), 95% at least {low:.0f}"
        yield Problem("note", f"{text}; from {sides.min()} to {sides.max()}")


def text_problems(rows: pa.Table, max_tokens: int) -> Iterator[Problem]:
    """Problems of absent, empty and truncated texts."""
    text = pc.utf8_lower(pc.utf8_trim_whitespace(rows["text"]))
    absent = pc.and_(pc.is_null(text), pc.is_valid(rows["image"]))
    yield from _of_rows("note", rows, absent, "Rows without a text (missing modality)")
    yield from _of_rows("warning", rows, pc.equal(text, ""), "Texts that are empty")
    message = "Texts that are nan (leave the cells of absent ones empty)"
    yield from _of_rows("warning", rows, pc.equal(text, "nan"), message)
    tokens = rows["tokens"].drop_null().to_numpy()
    if tokens.size:
        truncated = float((tokens > max_tokens).mean())
        median, high = np.percentile(tokens, (50, 95))
        message = f"Texts have {median:.0f} tokens (median), 95% at most {high:.0f}; "
        message += f"{truncated:.1%} are truncated at {max_tokens} (max_text_tokens)"
        yield Problem("warning" if truncated > _MAX_TRUNCATED else "note", message)


def language_problems(texts: Sequence[str], tokenizer: Any) -> Iterator[Problem]:
    """Texts in a language that the tokenizer was not made for, since it splits most words.

    The tokenizer of all-MiniLM splits 3 to 10% of English words, 39% of words in product names, 73%
    of German and 52% of Spanish words. It splits only 42% of French words, so these are missed.
    """
    words = Counter(word for text in texts for word in re.findall(r"[^\W\d_]+", text))
    split = 0
    for word, count in words.items():
        pieces = tokenizer.tokenize(f" {word}")
        # words of scripts without case are not always separated by blanks
        most = 1 if word.upper() != word.lower() else len(word) - 1
        split += count * (len(pieces) > most or tokenizer.unk_token in pieces)
    if words and (share := split / words.total()) > _MOST_SPLIT:
        text = f"The text encoder's tokenizer splits {share:.0%} of the words: is it of another"
        text += " language than the texts? Take an encoder of theirs, or a multilingual one"
        yield Problem("warning", text)


def label_problems(
    rows: pa.Table, counts: Mapping[Any, npt.NDArray[np.int64]], names: Sequence[str]
) -> Iterator[Problem]:
    """Empty splits, unknown labels, and classes too rare to learn or to measure.

    ``rows`` are those that training keeps; ``counts`` has their number by split and class ``(C,)``.
    """
    yield from _of_rows("note", rows, pc.equal(rows["split"], "predict"), "Rows for predict")
    for name in ("train", "val", "test"):
        severity: Severity = "warning" if name == "test" else "error"
        of_split = pc.equal(rows["split"], name)
        if not pc.any(of_split).as_py():
            yield Problem(severity, f"The {name} split has no usable row")
        unknown = pc.and_(of_split, pc.is_null(rows["label"]))
        yield from _of_rows(severity, rows, unknown, f"Rows of the {name} split without a label")
    unlabelled = pc.equal(rows["label"], "")  # the joined classes of a row, here none
    yield from _of_rows("note", rows, unlabelled, "Rows with an empty label (no class applies)")
    if "train" not in counts:
        return
    train = counts["train"]
    if len(names) > 1 and (train > 0).sum() < 2:
        yield Problem("error", "Training rows have fewer than two classes")
    masks: list[tuple[Severity, Any, str]] = [
        ("warning", train == 0, "Classes without a training row"),
        ("warning", train == 1, "Classes with a single training row"),
    ]
    for name in ("val", "test"):
        if name in counts:
            rare = (train > 0) & (counts[name] == 0)
            masks.append(("note", rare, f"Classes without a row in the {name} split"))
    for severity, mask, text in masks:
        if mask.any():
            shown = [names[index] for index in np.flatnonzero(mask)[:_SHOWN]]
            yield Problem(severity, f"{text}: {mask.sum():,}", shown)
    if missing := [name for name in names if name in MISSING]:
        text = "Classes that could be missing values: leave cells of unknown labels empty"
        yield Problem("warning", text, missing)
    folded: dict[str, list[int]] = {}
    for index, class_name in enumerate(names):
        folded.setdefault(_folded(class_name), []).append(index)
    total = np.sum([*counts.values()], axis=0)
    text = "Classes that differ in case, white space, Unicode form or invisible characters only"
    for severity, more in (
        ("error", ", one with a single row: correct its label"),
        ("warning", ""),
    ):
        # ascii() shows the difference of names that look the same
        alike = [
            " / ".join(ascii(names[index]) for index in group)
            for group in folded.values()
            if len(group) > 1 and bool(more) == (total[group].min() < 2)
        ]
        if alike:
            yield Problem(severity, text + more, alike[:_SHOWN])


def _folded(name: str) -> str:
    """A name without case, white space and zero-width characters, in one Unicode form."""
    plain = unicodedata.normalize("NFKC", name).casefold()
    return "".join(c for c in plain if not c.isspace() and unicodedata.category(c) != "Cf")


def duplicate_problems(rows: pa.Table) -> Iterator[Problem]:
    """Problems of images, texts and samples that occur more than once."""
    # rows may be in both predict and test, since neither is used in training
    use = pc.if_else(pc.equal(rows["split"], "predict"), "test", rows["split"])
    rows = rows.append_column("use", use)
    rows = rows.append_column("row", pa.array(np.arange(rows.num_rows)))
    both = ["content", "text"]
    images, samples = _repeats(rows, ["content"], "use"), _repeats(rows, both, "use")
    known = set(chain.from_iterable(samples))
    texts = [group for group in _repeats(rows, ["text"], "use") if known.isdisjoint(group)]
    doubled, labelled = _repeats(rows, ["split", *both], "row"), _repeats(rows, both, "label")
    sample = "Samples, by image and text,"
    lines: list[tuple[Severity, list[list[int]], str, str]] = [
        ("warning", images, "image", "Images, by content, in more than one split"),
        ("warning", samples, "sample_id", f"{sample} in more than one split"),
        ("note", texts, "sample_id", "Texts in more than one split, with other images"),
        ("warning", doubled, "sample_id", f"{sample} repeated within a split"),
        ("warning", labelled, "label", f"{sample} with different labels"),
    ]
    for severity, groups, column, text in lines:
        if groups:
            members = [rows.take(group[:4]).to_pylist() for group in groups[:_SHOWN]]
            named = [[f"{row['split']} {row[column]}" for row in group] for group in members]
            examples = [" = ".join(dict.fromkeys(names)) for names in named]
            count = sum(map(len, groups))
            yield Problem(severity, f"{text}: {len(groups):,} ({count:,} rows)", examples)


def _repeats(rows: pa.Table, same: list[str], other: str) -> list[list[int]]:
    """Groups of rows with the same image, text or both, but several values in another column."""
    present = reduce(pc.or_, (pc.is_valid(rows[name]) for name in same if name != "split"))
    rows = rows.filter(pc.and_(present, pc.is_valid(rows[other])))
    # threads would change the order of the rows
    groups = rows.group_by(same, use_threads=False)
    groups = groups.aggregate([("row", "list"), (other, "count_distinct")])
    several = pc.greater(groups[f"{other}_count_distinct"], 1)
    return cast(list[list[int]], groups["row_list"].filter(several).to_pylist())
