"""PMF: prompts of one modality are queried, mapped and put into the other's last layers.

Source: *Efficient Multimodal Fusion via Interactive Prompting*, CVPR 2023, arXiv 2304.06306, as its
released code has it.

Shape legend: B batch, n prompts, d width, F fusion layers, C classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from epic_pl.errors import ConfigError
from epic_pl.nn.base import DualEncoder, check_positive, check_probabilities
from epic_pl.nn.encoders.base import Encoder
from epic_pl.nn.towers import JointState, JointTower
from epic_pl.types import Batch


@dataclass(frozen=True)
class PMFConfig:
    """Switches of PMF; the defaults are the release's.

    Attributes:
        fusion_layers: F, the last F layers of each encoder.
        query_prompts: whose outputs go over to the other modality.
        query_context_prompts: that stand beside them in the query stage.
        fusion_context_prompts: that stand beside the other's outputs in the fusion stage.
        train_fusion_context: whether the last ones learn; the release leaves them as drawn.
        trim_last_layer: work out no more of the last layer than is used; the release runs it whole.
        prompt_init_std: of all prompts.
        modality_dropout: as for EPIC.
    """

    fusion_layers: int = 2
    query_prompts: int = 4
    query_context_prompts: int = 4
    fusion_context_prompts: int = 4
    train_fusion_context: bool = False
    trim_last_layer: bool = False
    prompt_init_std: float = 0.02
    modality_dropout: float = 0.0

    def __post_init__(self) -> None:
        check_positive(self, "fusion_layers", "query_prompts", "prompt_init_std")
        for name in ("query_context_prompts", "fusion_context_prompts"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}: it counts prompts, from 0.")
        check_probabilities(self, "modality_dropout")


class FusionSide(nn.Module):
    """What one modality learns: its prompts in F layers, and the maps to the other's width.

    Args:
        width: d of this modality.
        other_width: of the other.
        config: the switches.
    """

    no_decay = ("query", "query_context", "fusion_context")

    def __init__(self, width: int, other_width: int, config: PMFConfig) -> None:
        super().__init__()
        layers, std = config.fusion_layers, config.prompt_init_std
        self.query = nn.Parameter(torch.randn(layers, config.query_prompts, width) * std)
        self.query_context = nn.Parameter(
            torch.randn(layers, config.query_context_prompts, width) * std
        )
        self.fusion_context = nn.Parameter(
            torch.randn(layers, config.fusion_context_prompts, width) * std,
            requires_grad=config.train_fusion_context,
        )
        hidden = max(width // 2, other_width // 2)
        self.maps = nn.ModuleList(
            nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, other_width))
            for _ in range(layers)
        )

    def ask(self, step: int, tower: JointTower, state: JointState) -> Tensor:
        """The query stage: the query prompts' outputs ``(B, n, other d)``; tokens stay as they are.

        ``Map(Layer([U; context; query])[query])``.
        """
        prompts = torch.cat([self.query_context[step], self.query[step]])
        _, outputs = tower.acquire(step, state, prompts.expand(state.tokens.shape[0], -1, -1))
        mapped: Tensor = self.maps[step](outputs[:, self.query_context.shape[1] :])
        return mapped

    def fuse(self, step: int, tower: JointTower, state: JointState, heard: Tensor) -> JointState:
        """The fusion stage with what the other modality was asked: ``Layer([U; context; heard])``.

        Only the tokens go on.
        """
        context = self.fusion_context[step].expand(heard.shape[0], -1, -1)
        state, _ = tower.acquire(step, state, torch.cat([context, heard], dim=1))
        return state


class PMF(DualEncoder):
    """Two encoders that exchange mapped prompts in their last layers, and a head for each.

    The logits are the mean of both heads'. An absent modality (not in the paper) is masked, the
    other hears zeros of it, and its head is left out of the mean.

    Args:
        image_encoder: frozen.
        text_encoder: frozen.
        num_classes: C.
        config: the switches.

    Raises:
        ConfigError: if an encoder has fewer than F layers.
    """

    head_decay = ("head.0.weight", "head.1.weight")

    def __init__(
        self,
        image_encoder: Encoder,
        text_encoder: Encoder,
        num_classes: int,
        config: PMFConfig | None = None,
    ) -> None:
        config = config or PMFConfig()
        depths = (image_encoder.num_layers, text_encoder.num_layers)
        if config.fusion_layers > min(depths):
            raise ConfigError(
                f"fusion_layers is {config.fusion_layers}, but the encoders have {depths[0]} and "
                f"{depths[1]} layers: choose from 1 to {min(depths)}."
            )
        image_layers, text_layers = (
            list(range(depth - config.fusion_layers, depth)) for depth in depths
        )
        super().__init__(
            JointTower(image_encoder, image_layers),
            JointTower(text_encoder, text_layers),
            config.modality_dropout,
            stand_ins=0,
        )
        self.image_tower: JointTower
        self.text_tower: JointTower
        for each in (self.image_tower, self.text_tower):
            each.trims_last_layer = config.trim_last_layer
        self.num_steps = config.fusion_layers
        widths = (image_encoder.width, text_encoder.width)
        self.image_prompts = FusionSide(*widths, config)
        self.text_prompts = FusionSide(*widths[::-1], config)
        self.head = nn.ModuleList(nn.Linear(width, num_classes) for width in widths)

    def forward(self, batch: Batch) -> Tensor:
        """Logits ``(B, C)``."""
        image_present, text_present = self.presence(batch)
        image, text = self.extract(batch, image_present, text_present)
        for step in range(self.num_steps):
            from_image = self.image_prompts.ask(step, self.image_tower, image)  # (B, n, d_t)
            from_text = self.text_prompts.ask(step, self.text_tower, text)  # (B, n, d_v)
            image = self.image_prompts.fuse(
                step, self.image_tower, image, _if_present(from_text, text_present)
            )
            text = self.text_prompts.fuse(
                step, self.text_tower, text, _if_present(from_image, image_present)
            )
        image_logits = self.head[0](self.image_tower.pool(image))  # (B, C)
        text_logits = self.head[1](self.text_tower.pool(text))  # (B, C)
        if image_present is None or text_present is None:
            return torch.stack([image_logits, text_logits]).mean(dim=0)
        total = _if_present(image_logits, image_present) + _if_present(text_logits, text_present)
        heads = image_present.int() + text_present.int()
        return total / heads.clamp(min=1)[:, None]


def _if_present(values: Tensor, present: Tensor | None) -> Tensor:
    """``values (B, ...)`` with zeros where a sample's modality is absent."""
    if present is None:
        return values
    shape = [-1] + [1] * (values.ndim - 1)
    return torch.where(present.view(shape), values, 0)
