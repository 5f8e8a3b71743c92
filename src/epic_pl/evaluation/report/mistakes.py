"""The mistakes that were made with most confidence.

Shape legend: N samples, C classes.
"""

from typing import Any

import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as V

from epic_pl.data.preprocessing import ImagePreprocessing
from epic_pl.evaluation.report.outcome import Judge, Outcome
from epic_pl.types import Sample


def worst_mistakes(judge: Judge, outcome: Outcome, count: int) -> list[dict[str, Any]]:
    """Rows of the samples that are most surely wrong.

    Multiclass: the wrong answers of the highest probability. Multilabel: among samples with a wrong
    label, those of the highest mean binary cross-entropy, called ``loss``.
    """
    assigned, probabilities = judge.assigned(outcome.logits), judge.probabilities(outcome.logits)
    wrong = assigned != outcome.labels
    if judge.task == "multilabel":
        wrong = wrong.any(dim=1)
        surest = _loss(judge, outcome)
        name = "loss"
    else:
        surest, name = probabilities.amax(dim=1), "probability"
    order = surest.masked_fill(~wrong, -1).argsort(descending=True, stable=True)
    return [
        {
            "row": row,
            "sample_id": outcome.sample_id[row],
            "truth": judge.names(outcome.labels[row]),
            "prediction": judge.names(assigned[row]),
            name: float(surest[row]),
        }
        for row in order[: min(count, int(wrong.sum()))].tolist()
    ]


def _loss(judge: Judge, outcome: Outcome) -> Tensor:
    """``(N,)``."""
    loss = F.binary_cross_entropy_with_logits(
        outcome.logits / judge.temperature, outcome.labels.float(), reduction="none"
    )
    return loss.mean(dim=1)


def add_samples(
    mistakes: list[dict[str, Any]], dataset: Dataset[Sample], preprocessing: ImagePreprocessing
) -> list[Image.Image | None]:
    """Write each mistake's text into it and give the pictures, as the encoder saw them.

    Where the dataset's row is another sample (a loader of somebody's own), both stay away.
    """
    pictures: list[Image.Image | None] = []
    for mistake in mistakes:
        sample = dataset[mistake["row"]]
        same = sample["sample_id"] == mistake["sample_id"]
        mistake["text"] = sample["text"] if same else None
        image = sample["image"] if same else None
        pictures.append(None if image is None else as_seen(image, preprocessing))
    return pictures


def as_seen(image: Tensor, preprocessing: ImagePreprocessing) -> Image.Image:
    """An encoder's input ``(3, H, W)`` as a picture."""
    mean, std = (
        image.new_tensor(values)[:, None, None]
        for values in (preprocessing.mean, preprocessing.std)
    )
    picture: Image.Image = V.to_pil_image((image * std + mean).clamp(0, 1))
    return picture
