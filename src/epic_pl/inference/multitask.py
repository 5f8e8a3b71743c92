"""MultiTaskClassifier: several trained models on the same frozen encoders.

Shape legend: N items, B batch, C classes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import torch

from epic_pl.inference.classifier import Classifier
from epic_pl.inference.item_classifier import Floats, ItemClassifier, Label
from epic_pl.nn.towers import shared_features
from epic_pl.utils.errors import ConfigError
from epic_pl.utils.types import Batch, Task

_UNNAMED = "Give at least one task, each with its name: {'kind': classifier} (in load: path)."


class MultiTaskClassifier(ItemClassifier[dict[str, Floats], dict[str, list[Label]]]):
    """Classifies items in several tasks with one pass of the encoders that all models share.

    Results are those of each :class:`~epic_pl.Classifier` by itself. The models have frozen tokens
    (EPIC with read-only prompts, ``Parts``, or a head on frozen features), the same encoders and
    the same preprocessing. The encoders of the first task replace those of all others, whose
    memory is freed.

    Args:
        tasks: a mapping, or pairs, of task names and loaded classifiers, at least one. The
            classifiers are changed: all of them then have the encoders of the first.

    Attributes:
        tasks: the classifiers by name.
        class_names: names of the C classes of each task.
        task: "multiclass" or "multilabel" for each name.

    Raises:
        ConfigError: two tasks cannot share the encoders; the message names the difference.

    Example:
        >>> clf = MultiTaskClassifier.load({"colour": "runs/colour", "tone": "runs/tone"})
        >>> answer = clf(image="images/test2.png", text="a red square")
        >>> {task: labels[0]["label"] for task, labels in answer.items()}
        {'colour': 'red', 'tone': 'warm'}
    """

    def __init__(self, tasks: Mapping[str, Classifier] | Iterable[tuple[str, Classifier]]) -> None:
        self.tasks: dict[str, Classifier] = {}
        lead = ""
        shared: dict[str, Any] = {}
        for pair in tasks.items() if isinstance(tasks, Mapping) else tasks:
            if not (isinstance(pair, tuple) and isinstance(pair[-1], Classifier)):
                raise ConfigError(f"{_UNNAMED} Here is {pair!r}.")
            name, classifier = pair
            settings = _settings(classifier, f"{lead!r} and {name!r}" if lead else repr(name))
            if not self.tasks:
                lead, shared, first = name, settings, classifier
            for key in (key for key, value in shared.items() if settings[key] != value):
                raise ConfigError(
                    f"Tasks {lead!r} and {name!r} cannot share encoders: they differ in {key}: "
                    f"{shared[key]} and {settings[key]}. Train both alike, or use two classifiers."
                )
            towers = first.module.model.towers, classifier.module.model.towers
            for kept, tower in zip(*towers, strict=True):
                tower.encoder = kept.encoder
            classifier.processor.tokenizer = first.processor.tokenizer
            self.tasks[name] = classifier
        if not self.tasks:
            raise ConfigError(_UNNAMED)
        self.class_names = {name: clf.class_names for name, clf in self.tasks.items()}
        self.task: dict[str, Task] = {name: clf.task for name, clf in self.tasks.items()}
        self.processor = first.processor

    def __repr__(self) -> str:
        return "\n".join(f"{name}: {clf!r}" for name, clf in self.tasks.items())

    @classmethod
    def load(cls, paths: Mapping[str, str | Path], **options: Any) -> Self:
        """Load models one after another; only the encoders of the first stay in memory.

        Args:
            paths: a model for each task name; see :meth:`Classifier.load
                <epic_pl.Classifier.load>`.
            **options: further arguments of that method, the same for all models.

        Raises:
            ConfigError: if two tasks cannot share encoders.
            CheckpointError: if a model cannot be loaded.
            AssetError: if a model or an encoder cannot be fetched.
        """
        if not isinstance(paths, Mapping):
            raise ConfigError(_UNNAMED)
        return cls((name, Classifier.load(path, **options)) for name, path in paths.items())

    def labels(
        self, scores: Mapping[str, Floats], top_k: int | None = None
    ) -> list[dict[str, list[Label]]]:
        """Labels of N items in each task, from probabilities ``(N, C)``."""
        labels = [clf.labels(scores[name], top_k) for name, clf in self.tasks.items()]
        return [dict(zip(self.tasks, answer, strict=True)) for answer in zip(*labels, strict=True)]

    def _score(self, batches: Iterable[Batch]) -> dict[str, Floats]:
        parts = {name: [clf._score([])] for name, clf in self.tasks.items()}
        for batch in batches:
            for (name, clf), shared in zip(self.tasks.items(), self._encoded(batch), strict=True):
                parts[name].append(clf._score([shared]))
        return {name: np.concatenate(scores) for name, scores in parts.items()}

    @torch.inference_mode()
    def _encoded(self, batch: Batch) -> list[Batch]:
        """A batch for each task, with stored features instead of images and texts."""
        modules = [clf.module for clf in self.tasks.values()]
        batch = modules[0].transfer_batch_to_device(batch, modules[0].device, 0)
        image, text = zip(*(module.model.towers for module in modules), strict=True)
        images = shared_features(image, batch.pop("pixel_values"), None)
        texts = shared_features(text, batch.pop("input_ids"), batch["attention_mask"].bool())
        return [
            cast(Batch, {**batch, "image_features": image_features, "text_features": text_features})
            for image_features, text_features in zip(images, texts, strict=True)
        ]


def _settings(classifier: Classifier, tasks: str) -> dict[str, Any]:
    """Settings that an item's features depend on; ConfigError if they depend on the method."""
    try:
        module = classifier.module
    except ConfigError as error:
        raise ConfigError(f"Tasks {tasks} cannot share encoders: {error}") from error
    if "layers" not in module.model.cache_levels:
        why = f"{module.hparams['method']}. {module.model.image_tower.not_stored_because}"
        raise ConfigError(f"Tasks {tasks} cannot share encoders: the last one's method is {why}")
    image, text = classifier.processor.image, classifier.processor.text
    settings = {f"preprocessing.image.{key}": value for key, value in image.to_dict().items()}
    settings |= {
        "image_size of the image encoder": module.model.image_encoder.required_size,
        "preprocessing.columns": classifier.processor.columns,
        **{f"preprocessing.text.{key}": value for key, value in asdict(text).items()},
        "preprocessing.text.max_tokens": classifier.processor.max_text_tokens,
        "device": module.device,
    }
    for side, tower in zip(("image", "text"), module.model.towers, strict=True):
        settings |= {f"{key} of the {side} encoder": v for key, v in tower.provenance.items()}
    return settings
