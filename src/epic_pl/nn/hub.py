"""The hub, which consolidates the prompts of both modalities by their similarity.

Shape legend: B batch, n prompts, m parts of the text, P patches, d_v and d_t encoder widths, r hub
width.
"""

import math
from abc import ABC, abstractmethod
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from epic_pl.nn.pair import Pair, Presence, where_present
from epic_pl.utils.errors import ConfigError

HubKind = Literal["bottleneck", "parameter_free", "none"]

_TEMPERATURE = 0.1
# below this temperature the softmax over cosines is one-hot, and its gradient zero
_MIN_TEMPERATURE = 0.01
_EPSILON = 1e-12  # of F.normalize


class ScaledCosine(nn.Module):
    """Similarities ``S = cos(A_v, A_t) / tau`` with an initial tau of 0.1.

    Args:
        learned: whether tau is trained; the parameter is its logarithm.
    """

    def __init__(self, learned: bool = True) -> None:
        super().__init__()
        log_temperature = torch.tensor(math.log(_TEMPERATURE))
        if learned:
            self.log_temperature = nn.Parameter(log_temperature)
        else:
            self.register_buffer("log_temperature", log_temperature, persistent=False)

    @property
    def temperature(self) -> Tensor:
        """The temperature tau ``()``."""
        return self.log_temperature.exp().clamp(min=_MIN_TEMPERATURE)

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """Similarities ``S (B, n_v, n_t)`` of ``A_v (B, n_v, r)`` and ``A_t (B, n_t, r)``."""
        return Matched(image, text, self.temperature).similarities()


class Matched(NamedTuple):
    """Vectors of image and text that the matching loss brings together, and their temperature."""

    image: Tensor
    """``A_v (B, n_v, r)``, zero where the image is missing."""
    text: Tensor
    """``A_t (B, n_t, r)``, zero where the text is missing."""
    temperature: Tensor
    """tau ``()``."""

    def similarities(self) -> Tensor:
        """``S = cos(A_v, A_t) / tau``, ``(B, n_v, n_t)``."""
        # dividing by the lengths afterwards saves a normalised copy of all patches
        lengths: Tensor = self.image.norm(dim=-1, keepdim=True).clamp(min=_EPSILON)  # (B, n_v, 1)
        fits = self.image @ F.normalize(self.text, dim=-1).mT
        return fits / (lengths * self.temperature)


class Consolidated(NamedTuple):
    """The consolidated prompts, and what they were computed from, None without a hub."""

    prompts: Pair[Tensor]
    """Consolidated prompts ``C_m (B, n, d_m)``."""
    similarities: Tensor | None
    """Similarities ``S (B, n, n)``; before step 1 ``(B, P, m)``."""
    projected: Pair[Tensor] | None
    """Projected ``A_m (B, n, r)``, there ``A_v (B, P, r)`` and ``A_t (B, m, r)``."""


class PatchDropout(nn.Dropout):
    """Dropout whose mask comes from uniform numbers, which a CPU draws three times as fast.

    With torch's own, the masks of 64 patches take longer than their projection. One mask for all
    patches of a sample is faster still, but costs 1 to 2 points on entailment.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs with some entries zero, the others divided by ``1 - p``."""
        if not self.training:
            return inputs
        kept = torch.rand_like(inputs, dtype=torch.float32) >= self.p
        return inputs * kept * (1 / (1 - self.p) if self.p < 1 else 0)


class Hub(nn.Module, ABC):
    """Similarity-based interaction: each prompt gets a message from those of the other modality.

    With ``A_m`` the prompts ``Z_m`` in a common space and ``S = cos(A_v, A_t) / tau``::

        M_v = softmax_t(S) A_t        M_t = softmax_v(S^T) A_v

    The paper (arXiv 2507.07415) gives the idea; docs/method.md has both interpretations.

    Args:
        learned_temperature: whether tau is trained.
    """

    def __init__(self, learned_temperature: bool) -> None:
        super().__init__()
        self.similarity = ScaledCosine(learned_temperature)

    @abstractmethod
    def project(self, prompts: Pair[Tensor]) -> Pair[Tensor]:
        """Project ``Z_v (B, n, d_v)`` and ``Z_t (B, n, d_t)`` to ``A_v`` and ``A_t (B, n, r)``."""

    @abstractmethod
    def receive(self, prompts: Pair[Tensor], messages: Pair[Tensor]) -> Pair[Tensor]:
        """Add messages ``(B, n, r)`` to prompts: ``C_v (B, n, d_v)`` and ``C_t (B, n, d_t)``."""

    def forward(self, prompts: Pair[Tensor], present: Presence) -> Consolidated:
        """Consolidate the prompts ``Z_v (B, n, d_v)`` and ``Z_t (B, n, d_t)``.

        The message from a missing modality is zero.
        """
        (image, text), similarities = self.compare(prompts, present)  # (B, n, r), (B, n, n)
        messages = Pair(similarities.softmax(dim=2) @ text, similarities.softmax(dim=1).mT @ image)
        return Consolidated(self.receive(prompts, messages), similarities, Pair(image, text))

    def of_tokens(self, tokens: Pair[Tensor], present: Presence, number: int) -> Consolidated:
        """Consolidate patches ``(B, P, d_v)`` and parts ``(B, m, d_t)`` of the text.

        The result has n = ``number`` prompts of each modality: means of neighbouring parts, and of
        the patches and messages of these parts, weighted by ``softmax_v(S)`` with ``S (B, P, m)``.
        """
        (image, text), similarities = self.compare(tokens, present)
        weights = neighbour_means(similarities.softmax(dim=1).mT, number)  # (B, n, P)
        messages = Pair((weights @ similarities.softmax(dim=2)) @ text, weights @ image)
        prompts = Pair(weights @ tokens.image, neighbour_means(tokens.text, number))
        return Consolidated(self.receive(prompts, messages), similarities, Pair(image, text))

    def compare(self, given: Pair[Tensor], present: Presence) -> tuple[Pair[Tensor], Tensor]:
        """Projected ``A_v (B, n_v, r)`` and ``A_t (B, n_t, r)``, and S ``(B, n_v, n_t)``.

        A missing modality has zeros, so that its message is zero, too.
        """
        image, text = self.project(given)
        projected = Pair(where_present(image, present.image), where_present(text, present.text))
        return projected, self.similarity(*projected)


class BottleneckHub(Hub):
    """Hub with ``A_m = unit(LN(Z_m) W_m + b_m) sqrt(r)`` and ``C_m = Z_m + GELU(M_m) V_m``.

    ``V_m`` is initialised as zero, so that training starts from unimodal prompts. S does not depend
    on the length of ``A_m``, but messages do: without the normalisation they outgrow the prompts,
    and the model overfits.

    Args:
        widths: d_v and d_t.
        hub_width: width r of the common space.
        dropout: dropout rate of the normalised prompts and of the messages.
        messages: whether it has ``V_m``; one that only compares has none.

    Example:
        >>> hub = BottleneckHub(widths=Pair(384, 256), hub_width=64)
        >>> prompts = Pair(torch.randn(4, 2, 384), torch.randn(4, 2, 256))
        >>> consolidated = hub(prompts, present=Presence())
        >>> consolidated.prompts.text.shape, consolidated.similarities.shape
        (torch.Size([4, 2, 256]), torch.Size([4, 2, 2]))
    """

    def __init__(
        self, widths: Pair[int], hub_width: int, dropout: float = 0.0, messages: bool = True
    ) -> None:
        super().__init__(learned_temperature=True)
        self.down_image, self.down_text = (nn.Linear(width, hub_width) for width in widths)
        self.drop, self.dropout = PatchDropout(dropout), nn.Dropout(dropout)
        if messages:
            self.up_image, self.up_text = (
                nn.Linear(hub_width, width, bias=False) for width in widths
            )
            nn.init.zeros_(self.up_image.weight)
            nn.init.zeros_(self.up_text.weight)

    def project(self, prompts: Pair[Tensor]) -> Pair[Tensor]:
        """``A_m = unit(LN(Z_m) W_m + b_m) sqrt(r)``."""
        # a norm with weights would need a gradient with respect to all patches
        image, text = (self.drop(F.layer_norm(part, part.shape[-1:])) for part in prompts)
        projected = self.down_image(image), self.down_text(text)
        return Pair(*(F.rms_norm(part, part.shape[-1:]) for part in projected))

    def receive(self, prompts: Pair[Tensor], messages: Pair[Tensor]) -> Pair[Tensor]:
        """``C_m = Z_m + GELU(M_m) V_m``."""
        image, text = (self.dropout(F.gelu(message)) for message in messages)
        return Pair(prompts.image + self.up_image(image), prompts.text + self.up_text(text))


class ParameterFreeHub(Hub):
    """Hub with ``A_m = Z_m`` and ``C_m = Z_m + M_m``, closest to the paper, without parameters.

    Encoders of different widths share one learned map ``W (d_v, d_t)``: ``A_t = Z_t W^T`` and
    ``C_t = Z_t + M_t W``.

    Args:
        widths: d_v and d_t.

    Example:
        >>> ParameterFreeHub(widths=Pair(384, 256)).shared
        Linear(in_features=256, out_features=384, bias=False)
    """

    def __init__(self, widths: Pair[int]) -> None:
        super().__init__(learned_temperature=False)
        same = widths.image == widths.text
        self.shared = None if same else nn.Linear(widths.text, widths.image, bias=False)

    def project(self, prompts: Pair[Tensor]) -> Pair[Tensor]:
        """``A_v = Z_v`` and ``A_t = Z_t W^T``, or ``Z_t`` if both widths are equal."""
        text = prompts.text if self.shared is None else self.shared(prompts.text)
        return Pair(prompts.image, text)

    def receive(self, prompts: Pair[Tensor], messages: Pair[Tensor]) -> Pair[Tensor]:
        """``C_v = Z_v + M_v`` and ``C_t = Z_t + M_t W``, or without W if both widths are equal."""
        text = messages.text
        if self.shared is not None:
            text = F.linear(text, self.shared.weight.T)
        return Pair(prompts.image + messages.image, prompts.text + text)


class NoHub(nn.Module):
    """No messages: ``C_m = Z_m``, the control without interaction."""

    similarity = None

    def forward(self, prompts: Pair[Tensor], present: Presence) -> Consolidated:
        """The prompts as they are."""
        return Consolidated(prompts, None, None)

    def of_tokens(self, tokens: Pair[Tensor], present: Presence, number: int) -> Consolidated:
        """Means of n = ``number`` cells of a grid of patches, and of neighbouring parts."""
        cells = segment_means(tokens.image, number)
        return Consolidated(Pair(cells, neighbour_means(tokens.text, number)), None, None)


def build_hubs(
    kind: HubKind, number: int, widths: Pair[int], hub_width: int, dropout: float
) -> nn.ModuleList:
    """A number of hubs with parameters, or one hub for all consolidations."""
    if kind == "bottleneck":
        return nn.ModuleList(BottleneckHub(widths, hub_width, dropout) for _ in range(number))
    shared = NoHub() if kind == "none" else ParameterFreeHub(widths)
    return nn.ModuleList([shared] if number else [])


def where_parts_fit(similarities: Tensor) -> Tensor:
    """Locations ``s (B, 3 n_t)`` of the text's parts in the image, from ``S (B, P, n_t)``.

    For each part they are its mean row and column under the softmax over patches, and its match
    score (``logsumexp`` over patches).
    """
    shares = similarities.softmax(dim=1)
    places = patch_places(similarities.shape[1]).to(shares)  # (P, 2)
    return torch.cat([(places.T @ shares).flatten(1), similarities.logsumexp(dim=1)], dim=1)


def neighbour_means(parts: Tensor, number: int) -> Tensor:
    """Means ``(B, n, d)`` of neighbours among ``parts (B, m, d)``; some overlap if n divides not m.

    With n = m they are the parts.
    """
    return F.adaptive_avg_pool1d(parts.mT, number).mT


def segment_means(patches: Tensor, number: int) -> Tensor:
    """Means ``(B, n, d)`` of the cells of a grid that is as square as n allows.

    Cells overlap if the patches cannot be divided evenly among them.

    Args:
        patches: patches ``(B, P, d)`` of a square image, row by row.
        number: number of cells n.

    Raises:
        ConfigError: if the patches do not form a square.
    """
    side = grid_side(patches.shape[1])
    rows = max(divisor for divisor in range(1, math.isqrt(number) + 1) if number % divisor == 0)
    grid = patches.mT.reshape(patches.shape[0], -1, side, side)  # (B, d, side, side)
    return F.adaptive_avg_pool2d(grid, (rows, number // rows)).flatten(2).mT


def patch_places(number: int) -> Tensor:
    """Row and column ``(P, 2)`` of the patches of a square image, from -1 to 1.

    Raises:
        ConfigError: if the patches do not form a square.
    """
    side = grid_side(number)
    middles = (2 * torch.arange(side).double() + 1) / side - 1
    return torch.cartesian_prod(middles, middles)


def grid_side(number: int) -> int:
    """Number of patches per row of a square image with ``number`` patches.

    Raises:
        ConfigError: if the patches do not form a square.
    """
    side = math.isqrt(number)
    if side**2 != number:
        raise ConfigError(
            f"{number} patches form no square: take another first_prompt, method or image encoder."
        )
    return side
