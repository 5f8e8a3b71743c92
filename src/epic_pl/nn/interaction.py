"""The interaction hub: each modality takes what is relevant from the other and keeps its own.

Shape legend: B batch, n prompts, d_v and d_t encoder widths, r hub width.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HubActivation = Literal["gelu", "identity"]
# softmax over cosines divided by less than this is one-hot, and its gradient nothing
MIN_TEMPERATURE = 0.01


class Similarity(nn.Module):
    """How alike the vectors of two modalities are: ``S = cos(A_v, A_t) / tau``.

    ``A_m = LN(Z_m) W_m`` brings both to a narrow common space.

    Args:
        image_width: d_v.
        text_width: d_t.
        hub_width: r.
        temperature: tau at the start.
        learn_temperature: whether tau is trained (as its logarithm).
        norm: makes LN for a width.
    """

    def __init__(
        self,
        image_width: int,
        text_width: int,
        hub_width: int,
        temperature: float = 0.1,
        learn_temperature: bool = True,
        norm: Callable[[int], nn.LayerNorm | nn.GroupNorm] = nn.LayerNorm,
    ) -> None:
        super().__init__()
        self.norm_image = norm(image_width)
        self.norm_text = norm(text_width)
        self.down_image = nn.Linear(image_width, hub_width, bias=False)
        self.down_text = nn.Linear(text_width, hub_width, bias=False)
        log_temperature = torch.tensor(math.log(temperature))
        if learn_temperature:
            self.log_temperature = nn.Parameter(log_temperature)
        else:
            self.register_buffer("log_temperature", log_temperature)

    def project(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """``A_v`` and ``A_t (B, n, r)`` of ``Z_v (B, n, d_v)`` and ``Z_t (B, n, d_t)``."""
        return self.down_image(self.norm_image(image)), self.down_text(self.norm_text(text))

    def scores(self, a_image: Tensor, a_text: Tensor) -> Tensor:
        """``S (B, n, n)`` of what :meth:`project` gave, rows the picture's."""
        cosine = F.normalize(a_image, dim=-1) @ F.normalize(a_text, dim=-1).transpose(1, 2)
        return cosine / self.log_temperature.exp().clamp(min=MIN_TEMPERATURE)  # (B, n, n)

    def similarity(self, image: Tensor, text: Tensor) -> Tensor:
        """``S (B, n, n)`` of ``Z_v (B, n, d_v)`` and ``Z_t (B, n, d_t)``."""
        return self.scores(*self.project(image, text))


class InteractionHub(Similarity):
    """Similarity-based exchange between the prompts of two modalities ("consolidate").

    With ``A_m = LN(Z_m) W_m`` and ``S = cos(A_v, A_t) / tau``::

        M_v = softmax_t(S) A_t        C_v = Z_v + f(M_v) V_v
        M_t = softmax_v(S^T) A_v      C_t = Z_t + f(M_t) V_t

    ``V_m`` starts at zero, so training starts from unimodal prompts. The paper (arXiv 2507.07415)
    gives the idea; this form is a reading, see docs/method.md.

    Args:
        image_width: d_v.
        text_width: d_t.
        hub_width: r.
        temperature: tau at the start.
        learn_temperature: whether tau is trained (as its logarithm).
        activation: f.
        dropout: probability with which an entry of a message is dropped in training.
    """

    def __init__(
        self,
        image_width: int,
        text_width: int,
        hub_width: int,
        temperature: float = 0.1,
        learn_temperature: bool = True,
        activation: HubActivation = "gelu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(image_width, text_width, hub_width, temperature, learn_temperature)
        self.up_image = nn.Linear(hub_width, image_width, bias=False)
        self.up_text = nn.Linear(hub_width, text_width, bias=False)
        nn.init.zeros_(self.up_image.weight)
        nn.init.zeros_(self.up_text.weight)
        self.activation = nn.GELU() if activation == "gelu" else nn.Identity()
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        image: Tensor,
        text: Tensor,
        image_present: Tensor | None = None,
        text_present: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Consolidate acquired prompts ``Z_v (B, n, d_v)`` and ``Z_t (B, n, d_t)``.

        ``image_present`` and ``text_present (B,)`` bool: the message from an absent modality is
        zero, so the other's prompts pass unchanged. Returns ``C_v`` and ``C_t``, same shapes.
        """
        message_image, message_text = self.messages(image, text)
        if text_present is not None:
            message_image = message_image * text_present[:, None, None]
        if image_present is not None:
            message_text = message_text * image_present[:, None, None]
        return (
            image + self.up_image(self.dropout(self.activation(message_image))),
            text + self.up_text(self.dropout(self.activation(message_text))),
        )

    def messages(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """``M_v`` (from the text) and ``M_t`` (from the picture), each ``(B, n, r)``."""
        a_image, a_text = self.project(image, text)  # (B, n, r)
        scores = self.scores(a_image, a_text)  # (B, n, n)
        return scores.softmax(dim=2) @ a_text, scores.softmax(dim=1).transpose(1, 2) @ a_image
