"""The process of a server that holds the models and classifies batches of requests."""

import logging
import signal
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from litserve import LitAPI
from litserve.specs.base import LitSpec

from epic_pl.classifier import Classifier
from epic_pl.errors import ConfigError, DataError, EpicError
from epic_pl.inference.inputs import Item
from epic_pl.inference.item_classifier import ItemClassifier, Label
from epic_pl.multitask import MultiTaskClassifier
from epic_pl.types import Sample

_THREADS = 4  # that decode the images of a batch
_BATCH_SECONDS = 0.005  # a batch waits for further requests


class Question(NamedTuple):
    """An image-text pair to classify: a file's content and a text, either of which may be missing.

    ``top_k`` is that of :meth:`epic_pl.Classifier.__call__`.
    """

    image: bytes | None
    text: str | None
    top_k: int | None


class Answer(NamedTuple):
    """Labels, of several models by task, or a status and its reason; and the size of the batch."""

    labels: list[Label] | dict[str, list[Label]]
    batch_size: int
    status: int = 200
    reason: str = ""


class Worker(LitAPI):  # type: ignore[misc]  # litserve has no types
    """Loads the models once, and classifies the requests that come together as one batch.

    A request that cannot be classified gets a reason instead of an exception, which would fail all
    requests of its batch.

    Args:
        models: for each task what :meth:`epic_pl.Classifier.load` takes.
        programs: as for :meth:`epic_pl.Classifier.load`.
        max_pixels: of an image.
        max_batch: largest number of requests in a batch.
        threads: of torch on a CPU.
        endpoints: the server's endpoints.
    """

    def __init__(
        self,
        models: Mapping[str, str],
        programs: bool,
        max_pixels: int,
        max_batch: int,
        threads: int,
        endpoints: LitSpec,
    ) -> None:
        super().__init__(max_batch_size=max_batch, batch_timeout=_BATCH_SECONDS, spec=endpoints)
        self._paths, self._programs, self._max_pixels = dict(models), programs, max_pixels
        self._torch_threads = threads

    def setup(self, device: str) -> None:
        """Load the models onto a device."""
        # Ctrl-C reaches all processes; the server ends this one once all requests are answered
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if device == "cpu":
            torch.set_num_threads(self._torch_threads)
        self._model: ItemClassifier[Any, Any]
        options: dict[str, Any] = {"programs": self._programs, "device": device}
        (path, *others) = self._paths.values()
        try:
            if others:
                self._model = MultiTaskClassifier.load(self._paths, **options)
            else:
                self._model = Classifier.load(path, **options)
        except EpicError as error:
            print(f"epic-pl: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            logging.disable()  # litserve would add a traceback
            raise
        self._threads = ThreadPoolExecutor(_THREADS)

    async def health(self) -> bool:
        """Whether a worker answers."""
        return bool(await self.spec.is_answered())

    def decode_request(self, request: Question | None) -> Question | None:
        """The question; None only asks whether the worker answers."""
        return request

    def predict(self, questions: Any) -> Any:
        """An answer for each question of a list, or for a single one."""
        if isinstance(questions, list):
            return self._answers(questions)
        return self._answers([questions])[0]

    def encode_response(self, answer: Answer) -> Answer:
        """The answer; the endpoints make it a response."""
        return answer

    def _answers(self, questions: Sequence[Question | None]) -> list[Answer]:
        """Answers of a batch; if it fails, of one question after another."""
        try:
            return self._classify(questions)
        except Exception:
            if len(questions) > 1:
                return [answer for question in questions for answer in self._answers([question])]
            logging.getLogger(__name__).exception("A request failed.")
            return [Answer([], 1, 500, "The model failed; the server's log says why.")]

    def _classify(self, questions: Sequence[Question | None]) -> list[Answer]:
        prepared = [*self._threads.map(self._prepare, questions)]
        accepted = [
            (sample, question.top_k)
            for question, sample in zip(questions, prepared, strict=True)
            if question is not None and isinstance(sample, dict)
        ]
        labels = iter(self._labels(*zip(*accepted, strict=True)) if accepted else ())
        return [
            Answer([], len(accepted), 422, sample)
            if isinstance(sample, str)
            else Answer(next(labels) if sample else [], len(accepted))
            for sample in prepared
        ]

    def _labels(self, samples: Sequence[Sample], numbers: Sequence[int | None]) -> list[Any]:
        """Labels of each sample, as many as its number says."""
        scores = self._model.sample_probabilities(samples)
        of_number = {top_k: self._model.labels(scores, top_k) for top_k in set(numbers)}
        return [of_number[top_k][row] for row, top_k in enumerate(numbers)]

    def _prepare(self, question: Question | None) -> Sample | str | None:
        """The sample of a question, or why it has none."""
        if question is None:
            return None
        try:
            item: Item = {"image": question.image, "text": question.text}
            return self._model.prepare(item, self._max_pixels)
        except DataError as error:
            return str(error)


def name_models(models: Sequence[str]) -> dict[str, str]:
    """A name for each model: that of ``NAME=PATH``, else of the path.

    Raises:
        ConfigError: two models have the same name.
    """
    paths: dict[str, str] = {}
    for model in models:
        name, equals, path = model.partition("=")
        if not equals or Path(model).exists():
            name, path = Path(model).resolve().name, model
        if name in paths:
            raise ConfigError(
                f"Two models are called {name}: {paths[name]} and {path}. Name them: NAME=PATH."
            )
        paths[name] = path
    return paths
