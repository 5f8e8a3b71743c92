"""Temporal prompts: the learned vectors that enter each interaction layer.

Shape legend: B batch, n prompts, d_v and d_t encoder widths, K interaction steps.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from epic_pl.nn.pair import Pair

FirstPrompt = Literal["tokens", "independent", "from_text"]
Generation = Literal["offset", "linear"]


class TemporalPrompts(nn.Module):
    """The first prompts, and the next ones from what a step consolidated ("activate").

    ``generation`` "offset" is ``P^{k+1} = C + E^{k+1}`` with a learned E; "linear" (the paper's
    reading) is ``P^{k+1} = G C``, one linear map for each modality, shared by all steps and the
    identity at the start. All prompts are Gaussian at the start.

    Args:
        num_steps: number of steps K.
        num_prompts: n, prompts of each modality.
        widths: d_v and d_t.
        first_prompt: "tokens": learned vectors, plus the means of n parts of the picture or text;
            "independent": learned vectors alone; "from_text" (the paper's reading): the image's
            first prompts are a linear map of the text's.
        generation: "offset" or "linear".
        init_std: standard deviation of the Gaussian.
    """

    no_decay = ("first_image", "first_text", "offsets_image", "offsets_text")

    def __init__(
        self,
        num_steps: int,
        num_prompts: int,
        widths: Pair[int],
        first_prompt: FirstPrompt = "independent",
        generation: Generation = "offset",
        init_std: float = 0.02,
    ) -> None:
        super().__init__()

        def gaussian(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape) * init_std)

        self.first_text = gaussian(num_prompts, widths.text)
        if first_prompt == "from_text":
            self.coupling = nn.Linear(widths.text, widths.image)
        else:
            self.first_image = gaussian(num_prompts, widths.image)
        self.first_prompt, self.generation = first_prompt, generation
        if num_steps == 1:  # what is not used would never get a gradient, which DDP waits for
            return
        if generation == "linear":
            self.map_image, self.map_text = (_identity(width) for width in widths)
        else:
            self.offsets_image, self.offsets_text = (
                gaussian(num_steps - 1, num_prompts, width) for width in widths
            )

    def first(self, segments: Pair[Tensor]) -> Pair[Tensor]:
        """The prompts of step 1, ``(B, n, d_v)`` and ``(B, n, d_t)``.

        ``segments`` are means of parts of the boundary's tokens, of the same shapes.
        """
        text = self.first_text
        image = self.coupling(text) if self.first_prompt == "from_text" else self.first_image
        if self.first_prompt == "tokens":
            return Pair(segments.image + image, segments.text + text)
        size = segments.text.shape[0]
        return Pair(image.expand(size, -1, -1), text.expand(size, -1, -1))

    def activate(self, step: int, prompts: Pair[Tensor]) -> Pair[Tensor]:
        """The prompts of ``step``, counted from 0, from those that the step before consolidated."""
        if self.generation == "linear":
            return Pair(self.map_image(prompts.image), self.map_text(prompts.text))
        return Pair(
            prompts.image + self.offsets_image[step - 1],
            prompts.text + self.offsets_text[step - 1],
        )


def _identity(width: int) -> nn.Linear:
    linear = nn.Linear(width, width)
    nn.init.eye_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear
