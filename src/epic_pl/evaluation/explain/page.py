"""Explanations as one HTML page."""

from collections.abc import Sequence
from typing import Any

from epic_pl.evaluation.explain.figures import (
    draw_patches,
    draw_similarities,
    save_quietly,
    shades,
)
from epic_pl.evaluation.explain.samples import Explanation
from epic_pl.html_page import render


def explanation_page(explanations: Sequence[Explanation], checkpoint: str) -> str:
    """A page with every step of each sample, the last one first, and its similarity matrices."""
    samples = [_sample(explanation) for explanation in explanations]
    return render("evaluation/templates/explain.html", samples=samples, checkpoint=checkpoint)


def _sample(explanation: Explanation) -> dict[str, Any]:
    steps = [
        {
            "number": number + 1,
            "patches": save_quietly(draw_patches(explanation, number)),
            "prompts": [
                {
                    "share": float(shares.sum()),
                    "words": list(
                        zip(explanation.words, shares.tolist(), shades(shares), strict=True)
                    ),
                }
                for shares in step.words
                if explanation.words
            ],
        }
        for number, step in enumerate(explanation.steps)
    ]
    similarities = explanation.similarities and save_quietly(draw_similarities(explanation))
    return {"headline": explanation.headline, "steps": steps, "similarities": similarities}
