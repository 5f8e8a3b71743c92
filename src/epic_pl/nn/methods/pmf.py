"""PMF: query prompts of one modality are mapped and put into the last layers of the other.

Source: *Efficient Multimodal Fusion via Interactive Prompting*, CVPR 2023, arXiv 2304.06306,
following its released code.

Shape legend: B batch, n prompts, d width, F fusion layers, C classes.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from epic_pl.nn.base import DualEncoder, Method
from epic_pl.nn.encoders.base import Encoder
from epic_pl.nn.heads import ClassificationHead, HeadConfig, Output
from epic_pl.nn.pair import Pair, where_present
from epic_pl.nn.towers import JointTower, State
from epic_pl.utils.errors import ConfigError
from epic_pl.utils.types import Batch
from epic_pl.utils.validate import check_positive

_INIT_STD = 0.02


class FusionTower(JointTower):
    """A tower whose last layer computes all tokens, as in the released code."""

    trims_last_layer = False


class FusionSide(nn.Module):
    """Parameters of one modality: prompts of F layers, and maps to the other encoder's width."""

    no_decay = ("query", "query_context", "fusion_context")

    def __init__(self, width: int, other_width: int, method: "PMF") -> None:
        super().__init__()
        layers, n = method.fusion_layers, method.num_prompts
        self.query, self.query_context, self.fusion_context = (
            nn.Parameter(torch.randn(layers, n, width) * _INIT_STD) for _ in range(3)
        )
        self.fusion_context.requires_grad_(False)  # as in the released code
        hidden = max(width // 2, other_width // 2)
        self.maps = nn.ModuleList(
            nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, other_width))
            for _ in range(layers)
        )

    def ask(self, step: int, state: State, size: int) -> Tensor:
        """The query stage for B = ``size`` samples: the mapped outputs ``(B, n, other d)``.

        ``Map(Layer([U; context; query])[query])``.
        """
        prompts = torch.cat([self.query_context[step], self.query[step]])
        _, outputs = state.acquire(step, prompts.expand(size, -1, -1))
        return cast(Tensor, self.maps[step](outputs[:, self.query_context.shape[1] :]))

    def fuse(self, step: int, state: State, heard: Tensor) -> State:
        """The fusion stage ``Layer([U; context; heard])``, with ``heard`` from the other modality.

        The new state has the outputs of the tokens only.
        """
        context = self.fusion_context[step].expand(heard.shape[0], -1, -1)
        fused, _ = state.acquire(step, torch.cat([context, heard], dim=1))
        return fused


class PMFModel(DualEncoder):
    """Two encoders that exchange mapped prompts in their last layers, and the classification head.

    The released code averages two linear heads, which equals one linear map of both pooled outputs.
    A missing modality (not in the paper) is masked, and the other one receives zeros from it.

    The boundary features are the mean of the tokens that enter the first fusion layer.

    Raises:
        ConfigError: if an encoder has fewer than F layers.
    """

    def __init__(
        self, encoders: Pair[Encoder], num_classes: int, method: "PMF", head: HeadConfig
    ) -> None:
        steps = method.fusion_layers
        depths = [encoder.num_layers for encoder in encoders]
        if steps > min(depths):
            raise ConfigError(f"fusion_layers is {steps}, but an encoder has {min(depths)} layers.")
        image_tower, text_tower = (
            FusionTower(encoder, range(depth - steps, depth))
            for encoder, depth in zip(encoders, depths, strict=True)
        )
        super().__init__(image_tower, text_tower)
        self.num_steps = steps
        self.image_prompts = FusionSide(*self.widths, method)
        self.text_prompts = FusionSide(*self.widths[::-1], method)
        self.head = ClassificationHead(self.widths, num_classes, head)

    def forward(self, batch: Batch) -> Output:
        """The head's output for the features that are pooled after the last fusion layer."""
        present, size = self.presence(batch), batch["attention_mask"].shape[0]
        image, text = self.extract(batch, present)
        for step in range(self.num_steps):
            from_image = self.image_prompts.ask(step, image, size)  # (B, n, d_t)
            from_text = self.text_prompts.ask(step, text, size)  # (B, n, d_v)
            image = self.image_prompts.fuse(step, image, where_present(from_text, present.text))
            text = self.text_prompts.fuse(step, text, where_present(from_image, present.image))
        # both are already fused before the head, so nothing is matched
        return self.classify(batch, Pair(image.pool(), text.pool()), None, present)._replace(
            matched=None
        )


@dataclass(frozen=True)
class PMF(Method):
    """Options of PMF; the defaults are those of the released code.

    Attributes:
        fusion_layers: F, the last F layers of each encoder.
        num_prompts: n, number of prompts of each kind. Outputs of the query prompts are passed to
            the other modality; the other kinds are the contexts of the query and the fusion stage.

    Example:
        >>> PMF(num_prompts=2).build(encoders, num_classes=3)(batch).logits.shape
        torch.Size([4, 3])
    """

    model = PMFModel

    fusion_layers: int = 2
    num_prompts: int = 4

    def __post_init__(self) -> None:
        check_positive(self, "fusion_layers", "num_prompts")
