"""Mistakes that were made with most confidence.

Shape legend: N samples.
"""

from typing import Any

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as V

from epic_pl.data.preprocessing import ImagePreprocessing
from epic_pl.evaluation.evaluator import Evaluator
from epic_pl.evaluation.report.outputs import SplitOutputs
from epic_pl.types import Sample


def worst_mistakes(evaluator: Evaluator, outputs: SplitOutputs, count: int) -> list[dict[str, Any]]:
    """The wrong predictions with the highest confidence.

    Multiclass: those with the highest ``probability``. Multilabel: of the samples with any wrong
    label, those with the highest ``loss``.
    """
    predicted = evaluator.predict(outputs.logits)
    if evaluator.task == "multilabel":
        name, confidence = "loss", evaluator.losses(outputs.logits, outputs.labels)
        wrong = (predicted != outputs.labels).any(dim=1)
    else:
        name, confidence = "probability", evaluator.probabilities(outputs.logits).amax(dim=1)
        wrong = predicted != outputs.labels
    order = confidence.masked_fill(~wrong, -1).argsort(descending=True, stable=True)
    return [
        {
            "row": row,
            "sample_id": outputs.sample_id[row],
            "truth": evaluator.names(outputs.labels[row]),
            "prediction": evaluator.names(predicted[row]),
            name: float(confidence[row]),
        }
        for row in order[: min(count, int(wrong.sum()))].tolist()
    ]


def add_samples(
    mistakes: list[dict[str, Any]], dataset: Dataset[Sample], preprocessing: ImagePreprocessing
) -> list[Image.Image | None]:
    """Add its ``text`` to each mistake and return the pictures as the encoder saw them.

    Both are None where the dataset has another sample in that row (custom loaders).
    """
    pictures: list[Image.Image | None] = []
    for mistake in mistakes:
        sample = dataset[mistake["row"]]
        same = sample["sample_id"] == mistake["sample_id"]
        mistake["text"] = sample["text"] if same else None
        image = sample["image"] if same else None
        pictures.append(None if image is None else as_picture(image, preprocessing))
    return pictures


def as_picture(image: Tensor, preprocessing: ImagePreprocessing) -> Image.Image:
    """An encoder's input ``(3, H, W)`` as a picture."""
    mean, std = (
        image.new_tensor(values)[:, None, None]
        for values in (preprocessing.mean, preprocessing.std)
    )
    picture: Image.Image = V.to_pil_image((image * std + mean).clamp(0, 1))
    return picture
