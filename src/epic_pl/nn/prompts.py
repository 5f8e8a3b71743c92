"""Temporal prompts: the vectors that enter each interaction layer beside the tokens.

Shape legend: B batch, N words, m parts of a text, n prompts, d_v and d_t encoder widths, K
interaction steps.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from epic_pl.nn.hub import Consolidated
from epic_pl.nn.pair import Pair

FirstPrompt = Literal["tokens", "independent", "from_text"]
Generation = Literal["offset", "linear"]


class TextParts(nn.Module):
    """The m parts ``(B, m, d)`` of a text: weighted means of neighbouring words.

    The weights of part j are a softmax over words of the word's score minus half of its squared
    distance from the part's middle, in units of a part's length. Word scores are learned and the
    same for all parts, so "kite" can count more than "the". Each part gets a learned vector added.

    Args:
        number: number of parts m.
        width: encoder width d.
        init_std: standard deviation of the initial learned vectors.
    """

    no_decay = ("offsets",)

    def __init__(self, number: int, width: int, init_std: float = 0.02) -> None:
        super().__init__()
        self.number = number
        self.offsets = nn.Parameter(torch.randn(number, width) * init_std)
        self.norm = nn.LayerNorm(width)
        self.score = nn.Linear(width, 1, bias=False)
        nn.init.zeros_(self.score.weight)

    def forward(self, words: Tensor, mask: Tensor) -> Tensor:
        """Parts ``(B, m, d)`` of ``words (B, N, d)``; ``mask (B, N)`` is False on padding."""
        parts: Tensor = self.weights(words, mask).to(words.dtype) @ words + self.offsets
        return parts

    def weights(self, words: Tensor, mask: Tensor) -> Tensor:
        """Weights ``(B, m, N)`` of the words in each part."""
        counted = mask.to(words.dtype)[:, None]  # (B, 1, N)
        size = counted.sum(dim=2, keepdim=True) / self.number  # words per part
        middles = torch.arange(self.number, device=words.device)[:, None] + 0.5
        distances = (counted.cumsum(dim=2) - 0.5) / size.clamp(min=1e-6) - middles  # (B, m, N)
        weights: Tensor = self.score(self.norm(words)).mT - distances.square() / 2
        return weights.masked_fill(~mask[:, None], -1e4).softmax(dim=2)


class TemporalPrompts(nn.Module):
    """Makes the prompts of the first step, and those of each later step ("activate").

    From consolidated prompts C, ``generation`` "offset" makes ``P^{k+1} = C + E^{k+1}`` with a
    learned E. "linear" (closest to the paper) makes ``P^{k+1} = G C + g``, one map per modality,
    shared by all steps and initialised as the identity. Prompts have Gaussian initialisation.

    Args:
        num_steps: number of steps K.
        num_prompts: number of prompts n of each modality.
        widths: d_v and d_t.
        first_prompt: "tokens": the :class:`TextParts` of the text, and learned vectors added to
            the image patches that match them; "independent": learned vectors alone;
            "from_text" (closest to the paper): image prompts are a linear map of the text's.
        generation: "offset" or "linear".
        init_std: standard deviation of the Gaussian.
        num_parts: number of parts m with ``first_prompt`` "tokens".

    Example:
        >>> prompts = TemporalPrompts(num_steps=2, num_prompts=3, widths=Pair(384, 256))
        >>> prompts.activate(1, prompts.first(size=4)).image.shape
        torch.Size([4, 3, 384])
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
        num_parts: int = 8,
    ) -> None:
        super().__init__()

        def gaussian(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape) * init_std)

        if first_prompt == "tokens":
            self.parts = TextParts(num_parts, widths.text, init_std)
        else:
            self.first_text = gaussian(num_prompts, widths.text)
        if first_prompt == "from_text":
            self.coupling = nn.Linear(widths.text, widths.image)
        else:
            self.first_image = gaussian(num_prompts, widths.image)
        self.first_prompt, self.generation = first_prompt, generation
        if num_steps == 1:  # parameters that are not used get no gradient, and DDP would wait
            return
        if generation == "linear":
            self.map_image, self.map_text = (nn.Linear(width, width) for width in widths)
            for linear in (self.map_image, self.map_text):
                nn.init.eye_(linear.weight)
                nn.init.zeros_(linear.bias)
        else:
            self.offsets_image, self.offsets_text = (
                gaussian(num_steps - 1, num_prompts, width) for width in widths
            )

    def first(self, size: int, consolidated: Consolidated | None = None) -> Pair[Tensor]:
        """Prompts of step 1 for B = ``size`` samples, ``(B, n, d_v)`` and ``(B, n, d_t)``.

        With ``first_prompt`` "tokens" they start from the ``consolidated`` tokens, else they
        are learned.
        """
        if consolidated is not None:
            image, text = consolidated.prompts
            return Pair(image + self.first_image, text)
        text = self.first_text
        image = self.coupling(text) if self.first_prompt == "from_text" else self.first_image
        return Pair(image.expand(size, -1, -1), text.expand(size, -1, -1))

    def activate(self, step: int, prompts: Pair[Tensor]) -> Pair[Tensor]:
        """Prompts of ``step`` (from 0), made of the consolidated prompts of the step before."""
        if self.generation == "linear":
            return Pair(self.map_image(prompts.image), self.map_text(prompts.text))
        return Pair(
            prompts.image + self.offsets_image[step - 1],
            prompts.text + self.offsets_text[step - 1],
        )
