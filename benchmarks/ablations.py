"""The method `parts` with one ingredient taken out at a time, as methods of a comparison.

`python benchmarks/ablations.py FOLDER PARENT` does one run of
a comparison, as `epic_pl.experiments.compare.worker` does; `evidence.py` starts such runs.
"""

import os
import sys

import torch
from torch import Tensor, nn

from epic_pl.experiments.compare import worker
from epic_pl.experiments.compare.plan import Run
from epic_pl.nn.encoders.segments import segment_means
from epic_pl.nn.methods import METHODS, Method
from epic_pl.nn.methods.no_prompts import NoPromptsConfig
from epic_pl.nn.methods.parts import Parts, TokenState
from epic_pl.nn.methods.readers import Reader
from epic_pl.nn.pair import Pair, Presence


class EqualWords(Parts):
    """All words of a stretch count alike."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.parts.score.requires_grad_(False)  # zero


class Cells(Parts):
    """The parts are compared with 16 cells of the image in place of all patches."""

    def compare(self, image: TokenState, text: TokenState, present: Presence) -> Pair[Tensor]:
        """``A_v (B, 16, r)`` and ``A_t (B, n, r)``."""
        prefix = self.image_encoder.num_prefix_tokens
        cells = segment_means(image.tokens[:, prefix:], 16)
        tokens = torch.cat([image.tokens[:, :prefix], cells], dim=1)
        return super().compare(image._replace(tokens=tokens), text, present)


class Fits(Reader):
    """How well each part fits, and not where."""

    def __init__(self, number: int, width: int) -> None:
        super().__init__(number, width)
        self.size = number

    def forward(self, compared: Pair[Tensor], scores: Tensor) -> Tensor:
        """``(B, n)``."""
        return scores.logsumexp(dim=1)


class FitAlone(Parts):
    """The head reads no places."""

    reader = Fits


class Ungated(Parts):
    """A hidden layer with GELU, no gate, in the head."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        network = self.head.classifier.network
        network[0] = nn.Linear(network[0].in_features, network[0].out_features // 2)
        network[1] = nn.GELU()


ABLATIONS = {
    "equal_words": EqualWords,
    "cells": Cells,
    "fit_alone": FitAlone,
    "ungated": Ungated,
}


def register() -> None:
    """Let a comparison know them."""
    METHODS.update({name: Method(NoPromptsConfig, model) for name, model in ABLATIONS.items()})


def command(run: Run) -> list[str]:
    """Command line of a run that knows these methods."""
    return [sys.executable, __file__, str(run.folder), str(os.getpid())]


if __name__ == "__main__":
    register()
    worker.main()
