"""Temporal prompts: the learned vectors that enter each interaction layer.

Shape legend: B batch, n prompts, d width of one encoder, K interaction steps.
"""

from typing import Literal

import torch
from torch import Tensor, nn

FirstPrompt = Literal["independent", "from_text"]


class TemporalPrompts(nn.Module):
    """The learned parts ``E_m^k`` of the prompts of both modalities.

    The prompts that enter step 1 are learned alone; those that enter step k + 1 are what step k
    consolidated plus the learned ``E_m^{k+1}`` ("activate" in docs/method.md). All are Gaussian at
    the start.

    Args:
        num_steps: K, the number of interaction steps.
        num_prompts: n, prompts of each modality.
        image_width: d of the image encoder.
        text_width: d of the text encoder.
        first_prompt: "independent", or "from_text": the image's first prompts are a linear map of
            the text's.
        init_std: standard deviation of the Gaussian.
    """

    no_decay = ("image", "text")

    def __init__(
        self,
        num_steps: int,
        num_prompts: int,
        image_width: int,
        text_width: int,
        first_prompt: FirstPrompt = "independent",
        init_std: float = 0.02,
    ) -> None:
        super().__init__()
        coupled = first_prompt == "from_text"
        self.text = nn.Parameter(torch.randn(num_steps, num_prompts, text_width) * init_std)
        # coupled: step 1 of the image has no vectors of its own, so a lone step has none at all
        own_steps = num_steps - coupled
        self.image = (
            nn.Parameter(torch.randn(own_steps, num_prompts, image_width) * init_std)
            if own_steps
            else None
        )
        self.coupling = nn.Linear(text_width, image_width) if coupled else None

    def first(self, batch_size: int) -> tuple[Tensor, Tensor]:
        """The prompts of step 1, image's and text's, each ``(B, n, d)``."""
        text = self.text[0]  # (n, d_t)
        if self.coupling is not None:
            image = self.coupling(text)  # (n, d_v)
        else:
            assert self.image is not None
            image = self.image[0]
        return image.expand(batch_size, -1, -1), text.expand(batch_size, -1, -1)

    def activate(self, step: int, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """The prompts of ``step`` (from 1 on, counted from 0): consolidated prompts plus ``E``."""
        assert self.image is not None, "there is a step before this one"
        offset = 0 if self.coupling is None else 1
        return image + self.image[step - offset], text + self.text[step]  # (B, n, d)
