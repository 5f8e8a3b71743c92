"""The models of a server."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from epic_pl.classifier import Classifier, Label
from epic_pl.errors import ConfigError
from epic_pl.types import Sample


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


class ServedModels:
    """One model, or several that share a pass of their encoders.

    Args:
        paths: for each task what :meth:`epic_pl.Classifier.load` takes.
        programs: as for :meth:`epic_pl.Classifier.load`.
        device: as for :meth:`epic_pl.Classifier.load`.

    Raises:
        EpicError: a model cannot be loaded, or they cannot share a pass.
    """

    def __init__(self, paths: Mapping[str, str], programs: bool, device: str) -> None:
        self.classifiers = {
            name: Classifier.load(path, device=device, programs=programs)
            for name, path in paths.items()
        }
        self._first = next(iter(self.classifiers.values()))

    def __str__(self) -> str:
        return "\n".join(
            f"{name}: {classifier.task}, {len(classifier.class_names)} classes"
            for name, classifier in self.classifiers.items()
        )

    def prepare(self, image: bytes | None, text: str | None) -> Sample:
        """A pair as a sample.

        Raises:
            DataError: both are missing, or the image cannot be read.
        """
        return self._first.prepare({"image": image, "text": text})

    def labels(
        self, samples: Sequence[Sample], top_k: Sequence[int | None]
    ) -> list[dict[str, list[Label]]]:
        """Labels of each sample by task; ``top_k`` as in :meth:`epic_pl.Classifier.__call__`."""
        scores = {
            name: classifier.classify(samples) for name, classifier in self.classifiers.items()
        }
        return [
            {
                name: classifier.labels(scores[name][row : row + 1], number)[0]
                for name, classifier in self.classifiers.items()
            }
            for row, number in enumerate(top_k)
        ]
