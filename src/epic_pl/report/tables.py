"""The tables of a report.

Shape legend: N samples, C classes.
"""

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from epic_pl.data.dataset import ImageTextDataset
from epic_pl.data.preprocessing import ImagePreprocessing
from epic_pl.module.evaluator import Evaluator, finite
from epic_pl.module.outputs import SplitOutputs
from epic_pl.module.postprocess import answers, calibration_error, error_by_chance, reliability_bins
from epic_pl.module.prediction_table import prediction_table
from epic_pl.report.scores import Table
from epic_pl.utils.types import Sample

RATES = (0.3, 0.5, 0.7)
DRAWS = 20
"""One draw of missing modalities moves the accuracy of 300 samples by a point or two."""


def class_table(evaluator: Evaluator, outputs: SplitOutputs) -> Table:
    """Counts, precision, recall and F1 of each class, the lowest F1 first.

    Classes without a sample come last, with None. Other ratios with denominator 0 count as 0.
    """
    truth, predicted = outputs.labels.long(), evaluator.predict(outputs.logits)
    if evaluator.task == "multilabel":
        counts = [part.sum(dim=0).tolist() for part in (truth * predicted, truth, predicted)]
    else:
        parts = (truth[truth == predicted], truth, predicted)
        counts = [part.bincount(minlength=len(evaluator.class_names)).tolist() for part in parts]
    rows: Table = [
        {
            "class": name,
            "support": support,
            "predicted": assigned,
            "precision": hits / max(assigned, 1) if support else None,
            "recall": hits / support if support else None,
            "f1": 2 * hits / (support + assigned) if support else None,
        }
        for name, hits, support, assigned in zip(evaluator.class_names, *counts, strict=True)
    ]
    if evaluator.postprocessor.thresholds is not None:
        for row, threshold in zip(rows, evaluator.postprocessor.thresholds.tolist(), strict=True):
            row["threshold"] = threshold
    return sorted(rows, key=lambda row: (not row["support"], row["f1"] or 0, -row["support"]))


def average_rows(classes: Table) -> Table:
    """Macro mean of :func:`class_table`, and the mean weighted by support.

    As in scikit-learn, a class that was predicted but has no sample counts as 0 in the macro mean.
    In a multilabel task, whose rows have thresholds, every label counts.
    """
    known = [row for row in classes if row["support"] or row["predicted"] or "threshold" in row]
    support, predicted = (sum(row[key] for row in known) for key in ("support", "predicted"))
    averages: Table = []
    for name, weights in (
        ("macro mean", [1] * len(known)),
        ("weighted mean", [row["support"] for row in known]),
    ):
        means = {
            key: float(np.dot(weights, [row[key] or 0 for row in known])) / max(sum(weights), 1)
            for key in ("precision", "recall", "f1")
        }
        averages.append({"class": name, "support": support, "predicted": predicted} | means)
    return averages


def confused_pairs(evaluator: Evaluator, outputs: SplitOutputs, most: int = 15) -> Table:
    """The pairs of true and predicted class that are confused most often."""
    predicted = evaluator.predict(outputs.logits)
    wrong = predicted != outputs.labels
    pairs = zip(outputs.labels[wrong].tolist(), predicted[wrong].tolist(), strict=True)
    support, names = outputs.labels.bincount(minlength=1).tolist(), evaluator.class_names
    return [
        {
            "true": names[truth],
            "predicted": names[given],
            "samples": samples,
            "share of the true class": samples / support[truth],
        }
        for (truth, given), samples in Counter(sorted(pairs)).most_common(most)
    ]


def calibration_table(evaluator: Evaluator, outputs: SplitOutputs) -> dict[str, Any]:
    """Temperature, and calibration error and reliability bins without and with it.

    ``ece_by_chance`` is the error of perfectly calibrated answers with as many samples.
    """
    postprocessor, logits, labels = evaluator.postprocessor, outputs.logits, outputs.labels
    table: dict[str, Any] = {"temperature": float(postprocessor.temperature)}
    for suffix, probabilities in (
        ("_uncalibrated", postprocessor.uncalibrated(logits)),
        ("", evaluator.probabilities(logits)),
    ):
        table[f"bins{suffix}"] = bins = reliability_bins(probabilities, labels)
        table[f"ece{suffix}"] = calibration_error(bins)
    chance = error_by_chance(answers(probabilities, labels)[0])
    table["ece_by_chance"] = dict(zip(("mean", "low", "high"), chance, strict=True))
    return table


def draw_missing(complete: Tensor, rate: float, draw: int) -> tuple[Tensor, Tensor]:
    """Draw samples that lose their text, and equally many others that lose their image.

    A share ``rate`` of the ``complete (N,)`` samples loses one modality: two masks ``(N,)`` bool.
    In one draw, samples that lose a modality at a lower rate also lose it at a higher one.
    """
    rows = np.random.default_rng(draw).permutation(complete.nonzero()[:, 0].numpy())
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
    columns: bool = False,
) -> Table:
    """Scores with both modalities, with one alone, and with one missing in a share of samples.

    ``image_only`` and ``text_only`` are logits ``(N, C)`` with that modality alone, if a sample has
    it, and with the ``columns`` if the model reads any. A sample's logits do not depend on other
    samples, so these suffice for every mixture.
    """
    logits, labels = outputs.logits, outputs.labels
    image, text = outputs.image_present, outputs.text_present
    table: Table = []
    beside = "and columns" if columns else "only"
    for condition, given, rows in (
        ("unchanged", logits, torch.ones_like(image)),
        (f"image {beside}", image_only, image),
        (f"text {beside}", text_only, text),
    ):
        scores = evaluator.scores(given[rows], labels[rows])
        table.append({"condition": condition, "samples": int(rows.sum()), **scores})
    for rate in RATES:
        draws = []
        for draw in range(DRAWS):
            no_text, no_image = draw_missing(image & text, rate, draw)
            mixed = torch.where(no_text[:, None], image_only, logits)
            mixed = torch.where(no_image[:, None], text_only, mixed)
            draws.append(evaluator.scores(mixed, labels))
        values = np.array([[*scores.values()] for scores in draws], np.float64)  # None is NaN
        means = dict(zip(draws[0], map(finite, values.mean(axis=0)), strict=True))
        condition = f"{rate:.0%} missing a modality"
        table.append({"condition": condition, "samples": len(labels), **means})
    return table


def every_row(evaluator: Evaluator, outputs: SplitOutputs, dataset: ImageTextDataset) -> pa.Table:
    """All samples with truth, answer and probabilities; wrong ones first, by their loss.

    Of several labels, ``missed`` and ``wrong`` say which. Texts are empty where the dataset has
    another sample in that row, as with custom loaders.
    """
    predicted, labels = evaluator.predict(outputs.logits), outputs.labels.long()
    rows = [dataset.row(row) for row in range(min(len(labels), len(dataset)))]
    known = {row["sample_id"]: row["text"] for row in rows}
    columns: dict[str, Any] = {
        "sample_id": outputs.sample_id,
        "image_path": outputs.image_path or [None] * len(labels),
        "text": [known.get(name) for name in outputs.sample_id],
        "truth": ["|".join(evaluator.names(label)) for label in labels],
    }
    right = (predicted == labels).view(len(labels), -1).all(dim=1)
    if evaluator.task == "multilabel":
        for name, these in (("missed", labels > predicted), ("wrong", predicted > labels)):
            columns[name] = ["|".join(evaluator.names(row)) for row in these]
    least = evaluator.postprocessor.threshold_array()
    scores = evaluator.probabilities(outputs.logits).numpy()
    table = prediction_table(columns, scores, evaluator.class_names, least, None)
    losses = evaluator.losses(outputs.logits, outputs.labels)
    return table.take(pa.array(np.lexsort((-losses.numpy(), right.numpy()))))


def worst_mistakes(
    evaluator: Evaluator,
    outputs: SplitOutputs,
    count: int,
    dataset: Dataset[Sample],
    preprocessing: ImagePreprocessing,
) -> tuple[Table, list[Image.Image | None]]:
    """The wrong predictions with the highest confidence, and their images.

    Multiclass: those with the highest ``probability``. Multilabel: of the samples with any wrong
    label, those with the highest ``loss``. Text and image are None if the dataset has another
    sample in that row, as with custom loaders.
    """
    predicted = evaluator.predict(outputs.logits)
    wrong = predicted != outputs.labels
    if evaluator.task == "multilabel":
        name, confidence = "loss", evaluator.losses(outputs.logits, outputs.labels)
        wrong = wrong.any(dim=1)
    else:
        name, confidence = "probability", evaluator.probabilities(outputs.logits).amax(dim=1)
    order = confidence.masked_fill(~wrong, -1).argsort(descending=True, stable=True)
    mistakes: Table = []
    images: list[Image.Image | None] = []
    for row in order[: min(count, int(wrong.sum()))].tolist():
        sample, sample_id = dataset[row], outputs.sample_id[row]
        same = sample["sample_id"] == sample_id
        image, text = (sample["image"], sample["text"]) if same else (None, None)
        images.append(None if image is None else preprocessing.as_pil(image))
        truth, given = evaluator.names(outputs.labels[row]), evaluator.names(predicted[row])
        known = {"row": row, "sample_id": sample_id, "truth": truth, "prediction": given}
        mistakes.append({**known, name: float(confidence[row]), "text": text})
    return mistakes, images
