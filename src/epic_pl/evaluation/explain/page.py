"""Explanations as one HTML page that needs no other file; every text of the data is escaped."""

from collections.abc import Iterator, Sequence
from html import escape

from torch import Tensor

from epic_pl.evaluation.explain.figures import (
    draw_patches,
    draw_similarities,
    headline,
    saved_quietly,
    shades,
)
from epic_pl.evaluation.explain.samples import Explanation
from epic_pl.html_page import STYLE, inline_picture

_STYLE = f"{STYLE}.words{{overflow-wrap:anywhere}}.words span{{padding:0 .15em}}"
_NOTE = (
    "Shares of attention, the mean over heads. Colours are relative to the strongest patch or word "
    "of each prompt. What is missing to 100% is on class token, registers and the prompts "
    "themselves."
)


def page(explanations: Sequence[Explanation], checkpoint: str) -> Iterator[str]:
    """Pieces of the page: for each sample the steps, the last one first, and the exchanges."""
    title = f"What prompts look at: {len(explanations)} samples"
    yield f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{title}</title>"
    yield f"<style>{_STYLE}</style><h1>{title}</h1><p><small>{escape(checkpoint)}</small></p>"
    yield f"<p class='note'>{_NOTE}</p>"
    for explanation in explanations:
        yield f"<h2>{escape(headline(explanation))}</h2>"
        steps = len(explanation.steps)
        for step in reversed(range(steps)):
            shown = " open" if step == steps - 1 else ""
            yield f"<details{shown}><summary>Step {step + 1} of {steps}</summary>"
            yield inline_picture(saved_quietly(draw_patches(explanation, step)), "png")
            yield from _text(explanation.words, explanation.steps[step].words)
            yield "</details>"
        if explanation.similarities:
            yield "<p>Prompts of the picture (rows) by their similarity to those of the text:</p>"
            yield inline_picture(saved_quietly(draw_similarities(explanation)), "png")
    yield "</html>"


def _text(words: Sequence[str], weights: Tensor) -> Iterator[str]:
    """The words once for each prompt, by its shares ``(n, W)``."""
    if not words:
        yield "<p>no text</p>"
        return
    for number, shares in enumerate(weights, start=1):
        spans = " ".join(
            f"<span title='{share:.1%}' style='background:rgba(255,128,0,{shade:.2f})'>"
            f"{escape(word)}</span>"
            for word, share, shade in zip(words, shares.tolist(), shades(shares), strict=True)
        )
        yield (
            f"<p class='words'><b>prompt {number}</b> <small>{float(shares.sum()):.0%} on the text"
            f"</small> {spans}</p>"
        )
