"""A report as one HTML page that needs no other file; every text of the data is escaped."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from PIL import Image

from epic_pl.html_page import STYLE, inline_picture, jpeg

# whole numbers; all others are shares, losses or a temperature
_COUNTS = ("samples", "support")
_NOTES = {
    "classes": "The lowest F1 first; classes without a sample last.",
    "calibration": "How often answers of a probability are right. The temperature was fitted on "
    "the validation split; ECE is the mean gap between probability and share of right answers.",
    "absence": "Samples without a text, without a picture, and with one of the two absent of a "
    "share of those that have both (half of these lose the text, half the picture; the mean of "
    "20 draws).",
    "robustness": "The same samples with slips in the text, or flaws in the picture at the "
    "encoder's resolution.",
    "mistakes": "The wrong answers that were given with most confidence; pictures as the encoder "
    "saw them.",
}


def page(
    content: Mapping[str, Any],
    figures: Mapping[str, bytes],
    pictures: Sequence[Image.Image | None],
) -> Iterator[str]:
    """Pieces of the page.

    Args:
        content: what ``report.json`` holds.
        figures: PNG of ``confusion_matrix`` (multiclass) and ``reliability``.
        pictures: of the mistakes, None where there is none.
    """
    title = f"Test report: {escape(content['data'])}"
    yield f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{title}</title>"
    yield f"<style>{STYLE}</style><h1>{title}</h1>"
    yield f"<p class='verdict'>{escape(_headline(content))}</p>"
    yield f"<p><small>{escape(content['checkpoint'] or 'no checkpoint')}</small></p>"
    yield f"<p>{escape(_text_origin(content['text']))}</p>"
    rows = [{"metric": name, "value": value} for name, value in content["metrics"].items()]
    yield from _section("Metrics", "", _table(rows))
    yield from _section("Classes", _NOTES["classes"], _table(content["classes"]))
    if "confusion_matrix" in figures:
        matrix = inline_picture(figures["confusion_matrix"], "png")
        yield from _section("Confusion matrix", "", matrix)
    reliability = inline_picture(figures["reliability"], "png")
    yield from _section("Calibration", _NOTES["calibration"], _temperature(content), reliability)
    for key, heading in (("absence", "Absent modalities"), ("robustness", "Robustness")):
        if key in content:
            yield from _section(heading, _NOTES[key], _table(content[key]))
    if content["mistakes"]:
        gallery = "".join(map(_mistake, content["mistakes"], pictures))
        yield from _section(
            "Worst mistakes", _NOTES["mistakes"], f"<div class='samples'>{gallery}</div>"
        )
    yield "</html>"


def _headline(content: Mapping[str, Any]) -> str:
    name = "accuracy" if content["task"] == "multiclass" else "f1_micro_tuned"
    value = content["metrics"].get(f"test/{name}")
    shown = "" if value is None else f", {name.replace('_', ' ')} {_cell('', value)}"
    return f"{content['samples']:,} samples, {len(content['classes'])} classes{shown}"


def _text_origin(text: Mapping[str, Any]) -> str:
    """Which text was used: results on different ones cannot be compared."""
    source = f"{text['source']}, cut" if "source" in text else "cut"
    return f"Text: {source} at {text['max_tokens']} tokens{', cleaned' if text['clean'] else ''}"


def _section(heading: str, note: str, *parts: str) -> Iterator[str]:
    yield f"<h2>{heading}</h2>"
    if note:
        yield f"<p class='note'>{note}</p>"
    yield from parts


def _temperature(content: Mapping[str, Any]) -> str:
    calibration = content["calibration"]
    rows = [
        {"": "before", "temperature": 1.0, "ECE": calibration["ece_uncalibrated"]},
        {"": "after", "temperature": calibration["temperature"], "ECE": calibration["ece"]},
    ]
    chance = calibration["ece_by_chance"]
    return _table(rows) + (
        f"<p class='note'>Answers that are right exactly as often as they say would show "
        f"an ECE of {chance['mean']:.4f} on so many samples (90%: {chance['low']:.4f} to "
        f"{chance['high']:.4f}).</p>"
    )


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    """All rows have the first one's columns."""
    if not rows:
        return "<p>None.</p>"
    lines = ["".join(f"<th>{escape(name.replace('_', ' '))}</th>" for name in rows[0])]
    lines += ["".join(f"<td>{_cell(name, row[name])}</td>" for name in rows[0]) for row in rows]
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, str):
        return escape(value)
    return f"{value:,}" if name in _COUNTS else f"{value:.4f}"


def _mistake(mistake: Mapping[str, Any], picture: Image.Image | None) -> str:
    image = "" if picture is None else inline_picture(jpeg(picture), "jpeg")
    sure = (
        f"{mistake['probability']:.1%}"
        if "probability" in mistake
        else f"loss {mistake['loss']:.3f}"
    )
    said, truth = (", ".join(mistake[key]) or "none" for key in ("prediction", "truth"))
    return (
        f"<figure>{image}<figcaption>{escape(mistake['sample_id'])}<br>"
        f"<b>{escape(said)}</b> ({sure})<br>in truth <b>{escape(truth)}</b><br>"
        f"{escape((mistake['text'] or '')[:200])}</figcaption></figure>"
    )
