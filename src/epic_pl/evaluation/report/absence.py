"""Scores with missing modalities.

Shape legend: N samples, C classes.
"""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from epic_pl.evaluation.evaluator import Evaluator, Scores
from epic_pl.evaluation.report.outputs import SplitOutputs

RATES = (0.3, 0.5, 0.7)
DRAWS = 20
"""One draw of missing modalities moves the accuracy of 300 samples by a point or two."""


def draw_missing(complete: Tensor, rate: float, seed: int, draw: int = 0) -> tuple[Tensor, Tensor]:
    """Draw samples that lose their text, and as many others that lose their picture.

    A share ``rate`` of the ``complete (N,)`` samples loses one modality: two masks ``(N,)`` bool.
    Within one draw, samples that lose it at a lower rate lose it at a higher one, too.
    """
    rows = np.random.default_rng([seed, draw]).permutation(complete.nonzero()[:, 0].numpy())
    losing = round(rate * len(rows))
    no_text, no_image = torch.zeros_like(complete), torch.zeros_like(complete)
    no_text[rows[: losing // 2]] = True
    no_image[rows[len(rows) - (losing - losing // 2) :]] = True
    return no_text, no_image


def absence_table(
    evaluator: Evaluator,
    outputs: SplitOutputs,
    image_only: Tensor,
    text_only: Tensor,
    seed: int,
    rates: Sequence[float] = RATES,
) -> list[dict[str, Any]]:
    """Scores with both modalities, with one alone, and with a share of samples missing one.

    ``image_only`` and ``text_only`` are logits ``(N, C)`` with that modality alone where a sample
    has it. A sample's logits depend on no other sample, so three passes are enough for every
    mixture; its scores are the mean of 20 draws.
    """
    logits, labels = outputs.logits, outputs.labels
    image, text = outputs.image_present, outputs.text_present
    table = []
    for condition, given, rows in (
        ("as it is", logits, torch.ones_like(image)),
        ("picture only", image_only, image),
        ("text only", text_only, text),
    ):
        scores = evaluator.scores(given[rows], labels[rows])
        table.append({"condition": condition, "samples": int(rows.sum()), **scores})
    for rate in rates:
        draws = []
        for draw in range(DRAWS):
            no_text, no_image = draw_missing(image & text, rate, seed, draw)
            mixed = torch.where(no_text[:, None], image_only, logits)
            mixed = torch.where(no_image[:, None], text_only, mixed)
            draws.append(evaluator.scores(mixed, labels))
        table.append({"condition": f"{rate:.0%} lack one", "samples": len(labels), **_mean(draws)})
    return table


def _mean(draws: Sequence[Scores]) -> Scores:
    """Mean of each score; None where a draw has none."""
    means: Scores = {}
    for name in draws[0]:
        values = [value for scores in draws if (value := scores[name]) is not None]
        means[name] = fmean(values) if len(values) == len(draws) else None
    return means
