"""How alike two modalities are, as a say in the logits.

Shape legend: B batch, R rows, C classes, d width, P vectors of a modality, n prompts.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from epic_pl.nn.interaction import Similarity

_AGREEMENT_STD = 0.1
_LEAST_LENGTH = 1e-12
# of the largest singular value: less is rounding
_LEAST_SHARE = 1e-6


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
