"""LoRA: low-rank matrices beside the frozen linear layers of both encoders are trained.

Source: *LoRA: Low-Rank Adaptation of Large Language Models*, arXiv 2106.09685, through the peft
library.
"""

from dataclasses import dataclass

from torch import nn

from epic_pl.errors import ConfigError
from epic_pl.nn.methods.fine_tuned import FineTuned, FineTunedConfig
from epic_pl.validate import check_positive, check_probabilities


@dataclass(frozen=True)
class LoRAConfig(FineTunedConfig):
    """Options of LoRA.

    Attributes:
        rank: r of the matrices ``A (r, d_in)`` and ``B (d_out, r)`` of each linear layer.
        alpha: their product ``B A`` is scaled by alpha / r.
        lora_dropout: dropout rate of the input of ``A``.
        encoder_lr: peak learning rate of the matrices.
    """

    encoder_lr: float = 5e-4
    rank: int = 8
    alpha: int = 16
    lora_dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "rank", "alpha")
        check_probabilities(self, "lora_dropout")


class LoRA(FineTuned):
    """Fine-tuning of ``W + (alpha / r) B A`` in every linear layer, with ``W`` frozen.

    Arguments are those of :class:`FineTuned`.

    Raises:
        ConfigError: if peft cannot be imported.
    """

    config: LoRAConfig

    def _make_trainable(self, model: nn.Module, used: set[str]) -> None:
        """Add the two matrices to every linear layer that the output depends on."""
        try:
            import peft
        except ImportError as error:
            raise ConfigError(
                f"Method 'lora' needs the peft library, which cannot be imported ({error}): "
                "pip install peft."
            ) from error
        linear = [
            name
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and f"{name}.weight" in used
        ]
        options = peft.LoraConfig(
            r=self.config.rank,
            lora_alpha=self.config.alpha,
            lora_dropout=self.config.lora_dropout,
            target_modules=linear,
        )
        peft.inject_adapter_in_model(options, model)
