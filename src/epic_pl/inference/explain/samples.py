"""Computation of the prompts' attention in single samples.

Shape legend: n prompts, g patches a side, N tokens, W words, K steps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from epic_pl.data.dataset import ImageTextDataset
from epic_pl.data.processor import Processor
from epic_pl.module import EPICModule
from epic_pl.module.evaluator import Evaluator
from epic_pl.nn.hub import grid_side
from epic_pl.utils.errors import DataError
from epic_pl.utils.types import Sample


@dataclass(frozen=True)
class Step:
    """Attention weights of one step, averaged over heads.

    The remaining attention is on special tokens, registers and the prompts themselves.

    Attributes:
        patches: attention ``(n, g, g)`` of the image prompts; zeros without an image.
        words: attention ``(n, W)`` of the text prompts.
    """

    patches: Tensor
    words: Tensor


class Part(NamedTuple):
    """A part of the text, and where the image matches it.

    ``words (W,)`` has the weight of each word in it, ``patches (g, g)`` the shares of the patches
    by their similarity to it.
    """

    words: Tensor
    patches: Tensor


@dataclass(frozen=True)
class Explanation:
    """Attention and prediction of one sample, on the CPU.

    Attributes:
        sample_id: id of the sample.
        image: image after preprocessing; None if it is missing.
        words: the W words of the text; empty if it is missing.
        prediction: the class, or the labels of a multilabel task.
        probability: probability of the class; multilabel: the lowest one of the predicted labels.
        truth: the true class or labels; None if unknown.
        steps: attention of each of the K steps.
        similarities: ``softmax(S)`` of each hub between prompts, with image prompts in rows that
            sum to one; empty for unimodal samples.
        parts: the parts of the text, if patches are compared with them; empty for unimodal samples.
    """

    sample_id: str
    image: Image.Image | None
    words: list[str]
    prediction: list[str]
    probability: float | None
    truth: list[str] | None
    steps: list[Step]
    similarities: list[Tensor]
    parts: list[Part]

    @property
    def headline(self) -> str:
        """Id, prediction with its probability, and truth in one line."""
        truth = "unknown" if self.truth is None else _in_words(self.truth)
        return f"{self.sample_id}: {_in_words(self.prediction, self.probability)}, true: {truth}"


def _in_words(labels: Sequence[str], probability: float | None = None) -> str:
    share = "" if probability is None else f" ({probability:.1%})"
    return (", ".join(labels) or "no label") + share


def spread_rows(rows: int, count: int) -> list[int]:
    """``count`` of ``rows`` row numbers at even distances, since tables are often sorted."""
    count = min(count, rows)
    return [number * rows // count for number in range(count)]


def rows_of_ids(dataset: ImageTextDataset, ids: Sequence[str]) -> list[int]:
    """Row numbers of the samples with these ids, in this order.

    Raises:
        DataError: if the split has no such sample.
    """
    row_of = {dataset.row(row)["sample_id"]: row for row in range(len(dataset))}
    missing = sorted(set(ids) - set(row_of))
    if missing:
        known = f"see --split. A sample of it is {next(iter(row_of))!r}."
        raise DataError(f"There is no sample {', '.join(missing)} in this split: {known}")
    return [row_of[sample_id] for sample_id in ids]


def explain_sample(module: EPICModule, processor: Processor, sample: Sample) -> Explanation:
    """Explain a preprocessed sample; the module is in evaluation mode.

    Raises:
        ConfigError: if the method has no attention to draw, or its patches form no square.
        EncoderError: if its attention is not accessible.
    """
    model, evaluator, batch = module.model, Evaluator.of(module), processor.collate([sample])
    moved = module.transfer_batch_to_device(batch, module.device, 0)
    recording = model.record(moved)
    with torch.no_grad():
        logits = model(moved).logits
    text, image, labels = sample["text"], sample["image"], batch.get("labels")
    words, numbers = ([], []) if text is None else _words(processor, text)
    of_hubs = (
        [] if image is None or text is None else [s[0].float() for s in recording.similarities]
    )
    parts: list[Part] = []
    if of_hubs and recording.parts is not None:
        of_words = _on_words(recording.parts, len(words), numbers)
        maps = _on_grid(of_hubs.pop(0).softmax(dim=0).mT)
        parts = [Part(*part) for part in zip(of_words, maps, strict=True)]
    prefix = model.image_encoder.num_prefix_tokens
    prediction, probability = _answer(evaluator, logits)
    return Explanation(
        sample_id=sample["sample_id"],
        image=None if image is None else processor.image.as_pil(image),
        words=words,
        prediction=prediction,
        probability=probability,
        truth=None if labels is None else evaluator.names(labels[0]),
        steps=[
            Step(
                _on_grid(of_image.tokens[0, :, prefix:]),
                _on_words(of_text.tokens, len(words), numbers),
            )
            for of_image, of_text in zip(recording.image, recording.text, strict=True)
        ],
        similarities=[scores.softmax(dim=1).cpu() for scores in of_hubs],
        parts=parts,
    )


@torch.no_grad()
def predict_alone(module: EPICModule, processor: Processor, sample: Sample) -> dict[str, str]:
    """Predictions for the "image" and the "text" alone; empty if the sample lacks one."""
    if sample["image"] is None or sample["text"] is None:
        return {}
    evaluator, answers = Evaluator.of(module), {}
    for name, other in (("image", "text"), ("text", "image")):
        lacking: Any = {**sample, other: None, "cells": None}
        batch = module.transfer_batch_to_device(processor.collate([lacking]), module.device, 0)
        # the module itself would warn that a modality is missing
        answers[name] = _in_words(*_answer(evaluator, module.model(batch).logits))
    return answers


@torch.no_grad()
def added_by_source(module: EPICModule, processor: Processor, sample: Sample) -> dict[str, float]:
    """What image, text and each column add to the most probable label, the most first.

    A source adds the probability that the label loses if the model does not know it, while all
    others stay. Sources that the sample lacks are left out.
    """
    changes: dict[str, Any] = {}
    if sample["image"] is not None and sample["text"] is not None:
        changes = {name: {name: None} for name in ("image", "text")}
    cells = {**(sample.get("cells") or {})}
    known = {processor.columns.owners[part] for part in processor.columns.parsed(cells)}
    changes |= {name: {"cells": cells | {name: None}} for name in sorted(known)}
    batches = [processor.collate([{**sample, **each}]) for each in ({}, *changes.values())]
    moved = [module.transfer_batch_to_device(batch, module.device, 0) for batch in batches]
    evaluator = Evaluator.of(module)
    # the module itself would warn that a modality is missing
    logits = [module.model(batch).logits.float().cpu() for batch in moved]
    whole, *others = evaluator.probabilities(torch.cat(logits))
    label = int(whole.argmax())
    added = {
        name: float(whole[label] - one[label]) for name, one in zip(changes, others, strict=True)
    }
    return dict(sorted(added.items(), key=lambda pair: -pair[1]))


def in_points(added: Mapping[str, float]) -> str:
    """Differences of probabilities in one line, such as ``price +12.0, image -3.1``."""
    return ", ".join(f"{name} {100 * value:+.1f}" for name, value in added.items())


def _answer(evaluator: Evaluator, logits: Tensor) -> tuple[list[str], float | None]:
    """Prediction and probability of logits ``(1, C)``, as in :class:`Explanation`."""
    logits = logits.float().cpu()
    predicted, probabilities = evaluator.predict(logits)[0], evaluator.probabilities(logits)[0]
    confidence = probabilities[predicted.bool() if evaluator.task == "multilabel" else predicted]
    return evaluator.names(predicted), float(confidence.min()) if confidence.numel() else None


def _on_grid(shares: Tensor) -> Tensor:
    """Shares ``(n, g * g)`` of patches as ``(n, g, g)``, with rows from the top."""
    side = grid_side(shares.shape[1])
    return shares.float().cpu().reshape(-1, side, side)


def _words(processor: Any, text: str) -> tuple[list[str], list[int]]:
    """The W words of a text, and for each token the number of its word, 0 for special tokens."""
    tokens, text = processor.tokenize([text]), processor.text.prompt + text
    ids = tokens["input_ids"][0].tolist()
    names = processor.tokenizer.convert_ids_to_tokens(ids)
    if tokens.is_fast:
        of_tokens = tokens.word_ids(0)
    else:  # the tokenizer does not tell words, so each token counts as one
        special = processor.tokenizer.get_special_tokens_mask(ids, already_has_special_tokens=True)
        of_tokens = [None if mask else position for position, mask in enumerate(special)]
    words: list[str] = []
    numbers: list[int] = []
    for position, (name, index) in enumerate(zip(names, of_tokens, strict=True)):
        if index is not None and (not position or index != of_tokens[position - 1]):
            span = slice(*tokens.word_to_chars(0, index)) if tokens.is_fast else slice(0)
            words.append(text[span].strip() or name)
        numbers.append(0 if index is None else len(words))
    return words, numbers


def _on_words(of_tokens: Tensor, words: int, numbers: list[int]) -> Tensor:
    """Weights ``(n, W)`` of each word, the sums over its tokens in ``of_tokens (1, n, N)``."""
    weights = of_tokens[0, :, : len(numbers)].float().cpu()
    sums = weights.new_zeros(len(weights), 1 + words)
    return sums.index_add_(1, torch.tensor(numbers, dtype=torch.long), weights)[:, 1:]
