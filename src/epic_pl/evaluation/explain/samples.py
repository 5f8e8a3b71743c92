"""What the prompts looked at in single samples.

Shape legend: n prompts, g patches a side, N tokens, W words, K steps.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from epic_pl.data import ImageTextDataModule
from epic_pl.errors import ConfigError, EncoderError
from epic_pl.evaluation.explain.words import on_words, words_of
from epic_pl.evaluation.report.mistakes import as_seen
from epic_pl.evaluation.report.outcome import Judge
from epic_pl.module import EPICModule
from epic_pl.nn import EPIC
from epic_pl.nn.recording import Attention, recorded
from epic_pl.types import Sample


@dataclass(frozen=True)
class Step:
    """Shares of attention, the mean over heads: what is missing to one is on what has no place.

    That is on class token and registers of a picture, and on the prompts themselves.

    Attributes:
        patches: ``(n, g, g)`` of the picture's prompts; zeros where there is no picture.
        words: ``(n, W)`` of the text's prompts.
    """

    patches: Tensor
    words: Tensor


@dataclass(frozen=True)
class Explanation:
    """One sample, on the CPU.

    Attributes:
        sample_id: its name.
        picture: as the encoder saw it, None where absent.
        words: W words, none where the text is absent.
        prediction: the class, or the labels of a multilabel task.
        probability: of the class; of a multilabel task, the lowest of the labels', None without.
        truth: None where unknown.
        steps: K.
        similarities: K - 1 matrices ``softmax(S) (n, n)``, the picture's prompts over the text's:
            rows sum to one.
    """

    sample_id: str
    picture: Image.Image | None
    words: list[str]
    prediction: list[str]
    probability: float | None
    truth: list[str] | None
    steps: list[Step]
    similarities: list[Tensor]


def require_prompts(module: EPICModule) -> EPIC:
    """The model, if it has prompts to look at.

    Raises:
        ConfigError: if not.
    """
    if isinstance(module.model, EPIC):
        return module.model
    raise ConfigError(
        "Explanations show what EPIC's prompts look at, but this is a "
        f"{type(module.model).__name__} model: set model.method to epic or prompts_only."
    )


def explain(
    module: EPICModule, data: ImageTextDataModule, samples: Sequence[Sample]
) -> list[Explanation]:
    """Run a module, in evaluation mode, on samples one by one.

    Raises:
        ConfigError: if the model has no prompts.
        EncoderError: if its attention cannot be had, or its patches are no square grid.
    """
    model, judge = require_prompts(module), Judge.of(module)
    return [_explain(model, judge, data, sample, module.device) for sample in samples]


def _explain(
    model: EPIC, judge: Judge, data: ImageTextDataModule, sample: Sample, device: torch.device
) -> Explanation:
    batch: Any = data.collator([sample])
    moved = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}
    logits, recording = recorded(model, moved)  # type: ignore[arg-type]  # a Batch, moved
    logits = logits.float().cpu()
    text, image = sample["text"], sample["image"]
    words = []
    if text is not None:
        words = words_of(data.collator.tokenize([text]), data.collator.tokenizer, text)
    steps = [
        Step(
            _on_patches(of_image, model.image_encoder.num_prefix_tokens),
            on_words(of_text.tokens[0].float().cpu(), words),
        )
        for of_image, of_text in zip(recording.image, recording.text, strict=True)
    ]
    assigned, probabilities = judge.assigned(logits)[0], judge.probabilities(logits)[0]
    given = probabilities[assigned.bool() if judge.task == "multilabel" else assigned]
    labels = batch.get("labels")
    return Explanation(
        sample["sample_id"],
        None if image is None else as_seen(image, data.image_preprocessing),
        [word.text for word in words],
        judge.names(assigned),
        float(given.min()) if given.numel() else None,
        None if labels is None else judge.names(labels[0]),
        steps,
        [each[0].float().softmax(dim=1).cpu() for each in recording.similarities],
    )


def _on_patches(attention: Attention, prefix: int) -> Tensor:
    """``(n, g, g)``, rows from the top."""
    patches = attention.tokens[0, :, prefix:].float().cpu()  # (n, g * g)
    side = math.isqrt(patches.shape[1])
    if side * side != patches.shape[1]:
        raise EncoderError(
            f"This image encoder has {patches.shape[1]} patches, which are no square grid, so "
            "attention on them cannot be drawn over a picture."
        )
    return patches.view(-1, side, side)
