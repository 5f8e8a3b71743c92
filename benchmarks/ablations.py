"""The method parts without one ingredient at a time, as methods of a comparison.

`python benchmarks/ablations.py FOLDER PARENT` does one run of a comparison that has these methods,
as `epic_pl.experiments.compare.worker` does; `evidence.py` starts such runs.
"""

import os
import sys
from typing import Any

import torch
from torch import Tensor, nn

from epic_pl.experiments.compare import worker
from epic_pl.experiments.compare.plan import Entry, Run
from epic_pl.nn.encoders.segments import segment_means
from epic_pl.nn.methods import METHODS
from epic_pl.nn.methods.parts import Parts, PlaceReader
from epic_pl.nn.pair import Pair, Presence
from epic_pl.utils.types import Batch

_CELLS = 16


class EqualWords(Parts):
    """All words of a stretch count alike."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.parts.score.requires_grad_(False)  # zero


class Cells(Parts):
    """The parts find their places among 16 cells of the image in place of all patches."""

    def extract(self, batch: Batch, present: Presence) -> Pair[Any]:
        """That of Parts, of the cells."""
        image, text = super().extract(batch, present)
        cells = segment_means(self.image_tower.content_tokens(image.boundary_tokens), _CELLS)
        prefix = cells[:, :1].expand(-1, self.image_encoder.num_prefix_tokens, -1)  # is not read
        return Pair(image._replace(boundary_tokens=torch.cat([prefix, cells], dim=1)), text)


class _Fits(PlaceReader):
    """Numbers of which all but the fits are zero."""

    def forward(self, compared: Pair[Tensor], similarities: Tensor) -> Tensor:
        numbers = super().forward(compared, similarities)
        return numbers * (torch.arange(self.size, device=numbers.device) >= 2 * self.number)


class NoPlaces(Parts):
    """The head sees how well each part fits, and not where."""

    reader = _Fits


class Ungated(Parts):
    """A hidden layer with GELU and no gate in the head."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        network: Any = self.head.classifier.network
        network[0] = nn.Linear(network[0].in_features, network[0].out_features // 2)
        network[1] = nn.GELU()


MODELS: dict[str, type[Parts]] = {
    "equal_words": EqualWords,
    "cells": Cells,
    "no_places": NoPlaces,
    "ungated": Ungated,
}
ENTRIES = [
    Entry("parts", "parts"),
    *(Entry(name, name) for name in MODELS),
    Entry("wide_network", "parts", ("--model.head.network=wide",)),
    Entry("no_boundary", "parts", ("--model.head.boundary=false",)),
    Entry("similarity", "parts", ("--model.head.similarity=true",)),  # one more
    Entry("no_matching_loss", "parts", ("--model.loss.matched_classes=null",)),
]
"""The method and what is left of it, lines of the comparison."""


def register() -> None:
    """Let a comparison know these methods."""
    METHODS.update({name: METHODS["parts"]._replace(model=model) for name, model in MODELS.items()})


def command(run: Run) -> list[str]:
    """Command line of a run that knows these methods."""
    return [sys.executable, __file__, str(run.folder), str(os.getpid())]


if __name__ == "__main__":
    register()
    worker.main()
