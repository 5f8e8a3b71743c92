"""EPIC with one ingredient taken out at a time, as methods of a comparison.

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
from epic_pl.nn.epic import EPIC
from epic_pl.nn.methods import METHODS
from epic_pl.nn.pair import Pair, Presence

_CELLS = 16


class EqualWords(EPIC):
    """All words of a stretch count alike."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.prompts.parts.score.requires_grad_(False)  # zero


class Cells(EPIC):
    """The parts find their places among 16 cells of the image in place of all patches."""

    def first_prompts(
        self, image: Any, text: Any, present: Presence
    ) -> tuple[Pair[Tensor], Tensor | None]:
        """Those of EPIC, of the cells."""
        prefix, patches = image.entered.tensor_split([self.image_encoder.num_prefix_tokens], dim=1)
        cells = segment_means(patches, _CELLS)
        image = image._replace(entered=torch.cat([prefix, cells], dim=1))
        return super().first_prompts(image, text, present)


class NoPlaces(EPIC):
    """The head sees how well each part fits, and not where."""

    def first_prompts(
        self, image: Any, text: Any, present: Presence
    ) -> tuple[Pair[Tensor], Tensor | None]:
        """Those of EPIC, and fits without rows, columns and entropies."""
        prompts, scores = super().first_prompts(image, text, present)
        assert scores is not None
        fits = torch.arange(scores.shape[1], device=scores.device) >= 3 * self.config.num_prompts
        return prompts, scores * fits


class NoMessages(EPIC):
    """The image's prompts start from what they find, and no prompt tells another anything."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        first, *others = self.hubs
        for silent in (first.up_image, first.up_text, *others):  # zero
            silent.requires_grad_(False)


class Ungated(EPIC):
    """A hidden layer with GELU and no gate in the head."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        network: Any = self.head.classifier.network
        network[0] = nn.Linear(network[0].in_features, network[0].out_features // 2)
        network[1] = nn.GELU()


MODELS: dict[str, type[EPIC]] = {
    "equal_words": EqualWords,
    "cells": Cells,
    "no_places": NoPlaces,
    "no_messages": NoMessages,
    "ungated": Ungated,
}
ENTRIES = [
    Entry("epic", "epic"),
    Entry("parts", "parts"),  # nothing is read
    *(Entry(name, name) for name in MODELS),
    Entry("two_steps", "epic", ("--model.epic.interaction_layers=[[8,0],[11,5]]",)),  # one more
    Entry("no_exchange", "no_interaction"),  # nor a matching loss, which compares in an exchange
    Entry("learned_prompts", "epic", ("--model.epic.first_prompt=independent",)),
    Entry("no_matching_loss", "epic", ("--model.loss.matched_classes=null",)),
]
"""The method and what is left of it, lines of the comparison."""


def register() -> None:
    """Let a comparison know these methods."""
    METHODS.update({name: METHODS["epic"]._replace(model=model) for name, model in MODELS.items()})


def command(run: Run) -> list[str]:
    """Command line of a run that knows these methods."""
    return [sys.executable, __file__, str(run.folder), str(os.getpid())]


if __name__ == "__main__":
    register()
    worker.main()
