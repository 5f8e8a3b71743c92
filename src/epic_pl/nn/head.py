"""The classification head.

Shape legend: B batch, R rows, C classes, d width, P vectors of a modality, n prompts.
"""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from epic_pl.nn.interaction import Similarity

HeadNorm = Literal["parts", "joint"]
_AGREEMENT_STD = 0.1
_LEAST_LENGTH = 1e-12
# of the largest singular value: less is rounding
_LEAST_SHARE = 1e-6


class ClassificationHead(nn.Module):
    """``logits = Linear(Dropout(h))`` with ``h`` the normalised features of all parts.

    Encoders differ in scale (DINOv2's class token has six times the standard deviation of MiniLM's
    mean): under one LayerNorm over the joined features the smaller one hardly counts.

    Args:
        widths: of the parts, in their order.
        num_classes: C.
        dropout: probability with which a feature is dropped in training.
        norm: "parts": a LayerNorm for each part; "joint": one over all.
        agreement: adds a linear map of how alike both modalities are.
        scales: what the LayerNorm of each part starts at ("parts" only); a part with less weighs
            less, and is learned by heart later.
        alone: adds logits that only samples without a picture or without a text get.
        summaries: how many parts, the first ones, are what the encoders make of picture and text in
            turn; others are of prompts.
    """

    head_decay = ("linear.weight",)
    """Its tensors that decay as ``head_weight_decay`` says."""

    def __init__(
        self,
        widths: list[int],
        num_classes: int,
        dropout: float = 0.0,
        norm: HeadNorm = "parts",
        agreement: "Agreement | None" = None,
        scales: Sequence[float] | None = None,
        alone: "AloneHead | None" = None,
        summaries: int = 2,
    ) -> None:
        super().__init__()
        self.norms = _part_norms(widths, scales) if norm == "parts" else None
        self.norm = nn.LayerNorm(sum(widths)) if norm == "joint" else None
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(sum(widths), num_classes)
        self.agreement = agreement
        self.alone = alone
        self.summaries = summaries
        self._widths = widths

    @property
    def has_summaries(self) -> bool:
        """Whether there are summaries of both modalities to start from; a method may mix them."""
        return len(self._widths) >= self.summaries

    @torch.no_grad()
    def start_from_names(self, part: int, names: Tensor, scale: float) -> None:
        """Point a part's weights at the names of the classes, encoded as that part is.

        Few rows a class say less than the class's name does. What all names have in common says
        nothing, so it is taken out.

        Args:
            part: which one, counted from 0.
            names: ``(C, w)``.
            scale: length of each class's weights for the part; that of random ones is about
                ``sqrt(w / (3 * sum of widths))``, 0.29 for one of four equal parts.
        """
        start = sum(self._widths[:part])
        names = F.layer_norm(names, names.shape[-1:])  # as the part will be
        names = F.normalize(names - names.mean(dim=0), dim=-1)
        self.linear.weight[:, start : start + self._widths[part]] = scale * names

    def start_from_rows(self, part: int, mean: Tensor, scale: float) -> None:
        """Let a part's LayerNorm give ``scale * (x - mean)`` at first, where x is normalised.

        Args:
            part: which one, counted from 0.
            mean: ``(w,)``, of the normalised part over rows.
            scale: the inverse of its standard deviation, or what a modality's weight makes of it.
        """
        assert self.norms is not None, "one norm over all parts has no part to start"
        _standardise(self.norms[part], mean, scale)

    def forward(
        self,
        parts: list[Tensor],
        alone: list[Tensor] | None = None,
        image_present: Tensor | None = None,
        text_present: Tensor | None = None,
        summaries_only: bool = False,
    ) -> Tensor:
        """Parts ``(B, w)`` to logits ``(B, C)``; the agreement has its own.

        ``alone`` are the parts of :class:`AloneHead`, ``image_present`` and ``text_present (B,)``
        bool who is there: they count where the head has one. With ``summaries_only`` the logits
        are what the first parts give, those of no prompts.
        """
        if self.norms is not None:
            parts = [norm(part) for norm, part in zip(self.norms, parts, strict=True)]
        features = torch.cat(parts, dim=-1)  # (B, sum of widths)
        if self.norm is not None:
            features = self.norm(features)
        if summaries_only:
            rest = sum(self._widths[self.summaries :])
            features = F.pad(features[:, : features.shape[1] - rest], (0, rest))
        logits: Tensor = self.linear(self.dropout(features))
        if self.alone is not None:
            logits = logits + self.alone(alone, image_present, text_present, summaries_only)
        return logits


class AloneHead(nn.Module):
    """``Linear(Dropout(h_m))``: logits that only a sample without a picture or a text gets.

    Beside a modality that nearly decides, what the other one says is a correction, and few of its
    vectors are best; alone it has to name the class. So this map may see more of a modality than
    the one that all samples share. It starts at zero, and sees nothing of the absent one.

    Args:
        widths: of the parts, which are the picture's and the text's in turn.
        num_classes: C.
        dropout: probability with which a feature is dropped in training.
        scales: what the LayerNorm of each part starts at.
        summaries: how many parts, the first ones, are what the encoders say.
    """

    head_decay = ("linear.weight",)
    """Its tensors that decay as ``head_weight_decay`` says."""

    def __init__(
        self,
        widths: list[int],
        num_classes: int,
        dropout: float = 0.0,
        scales: Sequence[float] | None = None,
        summaries: int = 2,
    ) -> None:
        super().__init__()
        self.norms = _part_norms(widths, scales)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(sum(widths), num_classes, bias=False)
        nn.init.zeros_(self.linear.weight)
        self.summaries = summaries

    def start_from_rows(self, part: int, mean: Tensor, scale: float) -> None:
        """Let a part's LayerNorm give ``scale * (x - mean)`` at first, where x is normalised."""
        _standardise(self.norms[part], mean, scale)

    def forward(
        self,
        parts: list[Tensor],
        image_present: Tensor | None = None,
        text_present: Tensor | None = None,
        summaries_only: bool = False,
    ) -> Tensor:
        """Parts ``(B, w)`` to logits ``(B, C)``, zero where both modalities are present.

        ``image_present`` and ``text_present`` are ``(B,)`` bool. With ``summaries_only`` the
        logits are what the first parts give, those of no prompts.
        """
        everyone = parts[0].new_ones(parts[0].shape[0], dtype=torch.bool)
        present = [everyone if p is None else p for p in (image_present, text_present)]
        seen = []
        for number, (norm, part) in enumerate(zip(self.norms, parts, strict=True)):
            here = present[number % 2][:, None]
            if summaries_only and number >= self.summaries:
                here = torch.zeros_like(here)
            # whatever is in the place of what is absent: not even a NaN gets on
            seen.append(norm(torch.where(here, part, 0)) * here)
        logits: Tensor = self.linear(self.dropout(torch.cat(seen, dim=-1)))
        # zero where both are there, yet in the graph: DDP wants a gradient in every step
        return logits * ~(present[0] & present[1])[:, None]


def _part_norms(widths: Sequence[int], scales: Sequence[float] | None) -> nn.ModuleList:
    norms = [nn.LayerNorm(width) for width in widths]
    for norm, scale in zip(norms, scales or [1.0] * len(widths), strict=True):
        nn.init.constant_(norm.weight, scale)
    return nn.ModuleList(norms)


@torch.no_grad()
def _standardise(norm: nn.Module, mean: Tensor, scale: float) -> None:
    assert isinstance(norm, nn.LayerNorm)
    norm.weight.fill_(scale)
    norm.bias.copy_(-scale * mean)


class Agreement(nn.Module):
    """``Linear(S)``: a say in the logits for how alike two modalities are.

    Whether two modalities go together is a bilinear question, to which a linear map of what each
    of them is has no answer. ``S (B, 1)`` compares what the encoders say of the modalities, P
    vectors each, and joins the mean of the last prompts, with less weight, to the first of them::

        a_m = [LN(x_m,1) + s mean_n(LN(Z_m)); LN(x_m,2); ...] W_m        S = cos(a_v, a_t) / tau

    One similarity, not one of every pair: many views of the same few samples are learned by heart.
    At random the weights start small, but not at zero, where the projections behind ``S`` would
    get no gradient.

    Args:
        widths: d_v and d_t.
        hub_width: r.
        num_classes: C.
        prompt_scale: s.
        temperature: tau at the start.
        learn_temperature: whether tau is trained.
        said: P.
    """

    def __init__(
        self,
        widths: tuple[int, int],
        hub_width: int,
        num_classes: int,
        prompt_scale: float,
        temperature: float = 0.1,
        learn_temperature: bool = True,
        said: int = 1,
    ) -> None:
        super().__init__()
        self.similarity = Similarity(
            said * widths[0],
            said * widths[1],
            hub_width,
            temperature,
            learn_temperature,
            # vectors side by side, each normalised on its own
            partial(nn.GroupNorm, said),
        )
        self.said = said
        self.prompt_scale = prompt_scale
        self.linear = nn.Linear(1, num_classes, bias=False)
        nn.init.normal_(self.linear.weight, std=_AGREEMENT_STD)

    def forward(
        self,
        image: Tensor,
        text: Tensor,
        image_present: Tensor | None = None,
        text_present: Tensor | None = None,
    ) -> Tensor:
        """Logits ``(B, C)`` of what encoders say and prompts, ``(B, P + n, d_v)`` and the text's.

        They are zero where ``image_present`` or ``text_present (B,)`` bool is False: nothing agrees
        with what is absent.
        """
        logits: Tensor = self.linear(self._scores(*self.summaries(image, text)))  # (B, C)
        for present in (image_present, text_present):
            logits = logits if present is None else logits * present[:, None]
        return logits

    def summaries(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """What is compared, ``(B, P d_v)`` and ``(B, P d_t)``, of what :meth:`forward` is given."""
        return (
            self._summary(self.similarity.norm_image, image),
            self._summary(self.similarity.norm_text, text),
        )

    def _summary(self, norm: nn.Module, vectors: Tensor) -> Tensor:
        said: Tensor = norm(vectors[:, : self.said].flatten(1))  # (B, P d)
        prompts = F.layer_norm(vectors[:, self.said :], vectors.shape[-1:]).mean(dim=1)  # (B, d)
        rest = said.shape[1] - prompts.shape[1]
        return said + F.pad(self.prompt_scale * prompts, (0, rest))

    @torch.no_grad()
    def start_from_rows(self, image: Tensor, text: Tensor, targets: Tensor) -> None:
        """Start from what pictures and texts of rows have in common, whatever their classes.

        What is in every row makes any two alike, so the norms take the mean out. ``W_v`` and
        ``W_t`` become the first pairs of singular vectors of the covariance between both
        modalities (partial least squares), as long as they were; directions beyond its rank are
        left at random. The weights become the slopes of ``targets`` over ``S`` on every second
        row, with directions from the others: the rows that chose them seem more alike than any.

        Args:
            image: ``(R, P d_v)``, :meth:`summaries` of rows that have both modalities.
            text: ``(R, P d_t)``.
            targets: ``(R, C)``, one-hot or multi-hot.
        """
        targets = targets.to(image)
        norms = (self.similarity.norm_image, self.similarity.norm_text)
        for summaries, norm in zip((image, text), norms, strict=True):
            norm.bias.sub_(summaries.mean(dim=0))
        image, text = image - image.mean(dim=0), text - text.mean(dim=0)
        self._turn(image[0::2], text[0::2])
        scores = self._scores(image[1::2], text[1::2])  # (R / 2, 1)
        apart = (targets[1::2] - targets[1::2].mean(dim=0)) * (scores - scores.mean())
        spread = scores.var(correction=0).clamp(min=_LEAST_LENGTH)
        self.linear.weight.copy_(apart.mean(dim=0)[:, None] / spread)
        self._turn(image, text)

    def _turn(self, image: Tensor, text: Tensor) -> None:
        """Let the projections look where centred ``(R, P d_v)``, ``(R, P d_t)`` vary together."""
        downs = (self.similarity.down_image, self.similarity.down_text)
        # of image.T @ text, whose rank is that of the rows: without a decomposition of its size
        (left_basis, of_image), (right_basis, of_text) = map(torch.linalg.qr, (image.T, text.T))
        left, values, right = torch.linalg.svd(of_image @ of_text.T, full_matrices=False)
        left, right = left_basis @ left, right @ right_basis.T
        rank = int((values > _LEAST_SHARE * values[0]).sum())
        kept = min(downs[0].out_features, rank)
        for down, vectors in zip(downs, (left, right.T), strict=True):
            start = (vectors[:, :kept] * values[:kept].sqrt()).T  # (kept, d)
            length = down.weight[:kept].norm() / start.norm().clamp(min=_LEAST_LENGTH)
            down.weight[:kept] = start * length

    def _scores(self, image: Tensor, text: Tensor) -> Tensor:
        """``S (B, 1)`` of summaries."""
        a_image, a_text = self.similarity.down_image(image), self.similarity.down_text(text)
        return self.similarity.scores(a_image[:, None], a_text[:, None]).flatten(1)
