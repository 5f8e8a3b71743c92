"""Methods that train inside both encoders: full fine-tuning and LoRA.

LoRA, *Low-Rank Adaptation of Large Language Models* (arXiv 2106.09685), trains low-rank matrices
beside the frozen linear layers, through the peft library.
"""

from dataclasses import dataclass

import torch
from torch import nn

from epic_pl.nn.encoders.base import Encoder
from epic_pl.nn.heads import HeadConfig
from epic_pl.nn.methods.no_prompts import NoPrompts, NoPromptsModel
from epic_pl.nn.pair import Pair
from epic_pl.nn.towers import Tower, TrainedTower
from epic_pl.utils.errors import ConfigError, raised_as
from epic_pl.utils.validate import check_positive


class FineTunedModel(NoPromptsModel):
    """The classification head on encoders that are also trained.

    In training, dropout inside the encoders is active at the rates of the pretrained configs.

    Arguments are those of :class:`NoPromptsModel`; the encoders are thawed here.
    """

    tower = TrainedTower

    def __init__(
        self, encoders: Pair[Encoder], num_classes: int, method: "FullFineTuning", head: HeadConfig
    ) -> None:
        super().__init__(encoders, num_classes, method, head)
        self.method = method
        self.encoder_lr = method.encoder_lr
        for tower in self.towers:
            # parameters that are not used get no gradient, and DDP would wait for it
            used = used_parameters(tower)
            self._make_trainable(tower.encoder.thaw(), used)

    def _make_trainable(self, model: nn.Module, used: set[str]) -> None:
        """Enable gradients of the parameters that the method trains, among those ``used``."""
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in used)


class LoRAModel(FineTunedModel):
    """Fine-tuning of ``W + (alpha / r) B A`` in every linear layer, with ``W`` frozen.

    Arguments are those of :class:`NoPromptsModel`.

    Raises:
        ConfigError: if peft cannot be imported, or an encoder has no linear layers.
    """

    method: "LoRA"

    def _make_trainable(self, model: nn.Module, used: set[str]) -> None:
        """Add the matrices A and B to every linear layer that the pooled output depends on."""
        way_out = "Mend it by pip install peft."
        with raised_as(ConfigError, "LoRA cannot import peft", way_out, ImportError):
            import peft
        linear = [
            name
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and f"{name}.weight" in used
        ]
        if not linear:
            raise ConfigError("LoRA needs linear layers, an encoder has none: take LinearProbe.")
        options = peft.LoraConfig(
            r=self.method.rank, lora_alpha=self.method.alpha, target_modules=linear
        )
        peft.inject_adapter_in_model(options, model)


@dataclass(frozen=True)
class FullFineTuning(NoPrompts):
    """Full fine-tuning of both encoders with the head.

    Attributes:
        encoder_lr: peak learning rate inside the encoders.

    Example:
        >>> FullFineTuning().build(encoders, num_classes=3).encoder_lr
        2e-05
    """

    model = FineTunedModel
    space = "prompts.yaml"

    encoder_lr: float = 2e-5

    def __post_init__(self) -> None:
        check_positive(self, "encoder_lr")


@dataclass(frozen=True)
class LoRA(FullFineTuning):
    """LoRA in both encoders, with the head.

    Attributes:
        interaction_layers: as in :class:`~epic_pl.nn.methods.no_prompts.NoPrompts`.
        rank: r of the matrices ``A (r, d_in)`` and ``B (d_out, r)`` of each linear layer.
        alpha: scale of the product ``B A``, which is multiplied by alpha / r.
        encoder_lr: peak learning rate of the matrices.

    Example:
        >>> LoRA(rank=4).build(encoders, num_classes=3)(batch).logits.shape
        torch.Size([4, 3])
    """

    model = LoRAModel

    encoder_lr: float = 5e-4
    rank: int = 8
    alpha: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "rank", "alpha")


@torch.enable_grad()
def used_parameters(tower: Tower) -> set[str]:
    """Names of the parameters of the library's module that the pooled output depends on.

    A backward pass finds them, since a fixed list would depend on the libraries' versions.
    """
    model = tower.encoder.model
    example = tower.encoder.example(1, 2, torch.Generator().manual_seed(0))
    names, parameters = zip(*model.named_parameters(), strict=True)
    model.requires_grad_(True)
    output = tower.extract(example.to(parameters[0].device), None).pool().output
    gradients = torch.autograd.grad(output.sum(), parameters, allow_unused=True)
    model.requires_grad_(False)
    return {name for name, gradient in zip(names, gradients, strict=True) if gradient is not None}
