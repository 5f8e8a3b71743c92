"""Accuracy where a modality is absent.

Shape legend: N samples, C classes.
"""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from epic_pl.evaluation.report.outcome import Judge, Outcome

RATES = (0.3, 0.5, 0.7)
DRAWS = 20
"""One draw of who loses what moves the accuracy of 300 samples by a point or two."""


def drawn_absent(complete: Tensor, rate: float, seed: int, draw: int = 0) -> tuple[Tensor, Tensor]:
    """Which samples lose their text, and which their picture.

    Of the samples that have both, the share ``rate`` loses one: half of them the text, half the
    picture, nobody both. In one draw, who loses at a lower rate loses the same at a higher one.

    Args:
        complete: ``(N,)`` bool, samples that have both.
        rate: between 0 and 1.
        seed: of all draws.
        draw: which one, counted from 0.

    Returns:
        Two masks ``(N,)`` bool.
    """
    rows = np.random.default_rng([seed, draw]).permutation(complete.nonzero()[:, 0].numpy())
    losing = round(rate * len(rows))
    no_text, no_image = torch.zeros_like(complete), torch.zeros_like(complete)
    no_text[rows[: losing // 2]] = True
    no_image[rows[len(rows) - (losing - losing // 2) :]] = True
    return no_text, no_image


def absence_table(
    judge: Judge,
    outcome: Outcome,
    image_only: Tensor,
    text_only: Tensor,
    seed: int,
    rates: Sequence[float] = RATES,
) -> list[dict[str, Any]]:
    """Scores with both, with one alone, and with one absent of a share of the samples.

    A sample's logits depend on no other sample, so a mixture of absences is put together from
    three passes. Its scores are the mean of 20 draws of who loses what.

    Args:
        judge: gives the scores.
        outcome: logits of the samples as they are.
        image_only: logits ``(N, C)`` without any text, where there is a picture.
        text_only: logits ``(N, C)`` without any picture, where there is a text.
        seed: of the draws.
        rates: shares of samples that lose one modality.
    """
    both, labels = outcome.logits, outcome.labels

    def row(condition: str, logits: Tensor, of: Tensor) -> dict[str, Any]:
        scores = judge.scores(logits[of], labels[of])
        return {"condition": condition, "samples": int(of.sum()), **scores}

    def mixture(rate: float, draw: int) -> dict[str, float | None]:
        no_text, no_image = drawn_absent(complete, rate, seed, draw)
        mixed = torch.where(no_text[:, None], image_only, both)
        return judge.scores(torch.where(no_image[:, None], text_only, mixed), labels)

    everyone = torch.ones(len(both), dtype=torch.bool)
    table = [
        row("as it is", both, everyone),
        row("picture only", image_only, outcome.image_present),
        row("text only", text_only, outcome.text_present),
    ]
    complete = outcome.image_present & outcome.text_present
    for rate in rates:
        scores = _mean([mixture(rate, draw) for draw in range(DRAWS)])
        table.append({"condition": f"{rate:.0%} lack one", "samples": len(both), **scores})
    return table


def _mean(each: Sequence[dict[str, float | None]]) -> dict[str, float | None]:
    """The mean of every score; None where one of them is."""
    means: dict[str, float | None] = {}
    for name in each[0]:
        values = [scores[name] for scores in each]
        known = [value for value in values if value is not None]
        means[name] = fmean(known) if len(known) == len(values) else None
    return means
