"""What a module writes into its checkpoints, and what it asks of one before it is loaded."""

from typing import Any, Self

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from epic_pl.module.checkpoint import (
    CHECKPOINT_KEY,
    FORMAT_VERSION,
    CheckpointInfo,
    EncoderIdentity,
    adapter_state,
    check_class_names,
    check_encoder,
    check_similarity,
    complete_state,
    require_info,
)
from epic_pl.module.ema import WeightAverage
from epic_pl.module.rng import gather_rng_states, set_rng_state
from epic_pl.nn.base import DualEncoder
from epic_pl.nn.encoders import Encoder
from epic_pl.types import Batch

AVERAGE_KEY = "weight_average"
_INTERACTION_WEIGHT = "model.interaction_weight"


class Checkpointing(L.LightningModule):
    """The checkpoints' part of :class:`epic_pl.module.EPICModule`, which says who it is."""

    model: DualEncoder
    class_names: list[str]
    _encoder_names: dict[str, tuple[str, str | None]]
    _pending_rng: list[dict[str, Any]] | None = None
    _average: WeightAverage | None = None
    _pending_average: dict[str, Any] | None = None

    @classmethod
    def load_from_checkpoint(
        cls,
        checkpoint_path: Any,
        map_location: Any = None,
        hparams_file: Any = None,
        strict: bool | None = None,
        weights_only: bool | None = True,
        **kwargs: Any,
    ) -> Self:
        """Lightning's own, but never unpickling code: tensors and plain types only."""
        module: Self = super().load_from_checkpoint(
            checkpoint_path, map_location, hparams_file, strict, weights_only, **kwargs
        )
        return module

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the trainable weights only, and say which encoders they belong to.

        Where weights are averaged, ``state_dict`` has the averages, which everybody wants; what
        training goes on from has a key of its own.
        """
        checkpoint["state_dict"] = adapter_state(self, checkpoint["state_dict"])
        if self._average:
            checkpoint["state_dict"] = self._average.averaged(checkpoint["state_dict"])
            checkpoint[AVERAGE_KEY] = self._average.state_dict()
        checkpoint[CHECKPOINT_KEY] = self.checkpoint_info()
        checkpoint["rng_states"] = gather_rng_states()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint fits, and complete it for Lightning's strict load.

        Raises:
            CheckpointError: if it is not ours, was trained on other encoders or classes, or a key
                is missing, unknown or of another shape.
        """
        info = require_info(checkpoint)
        self._check_encoders(info)
        check_class_names(info["class_names"], self.hparams.get("class_names"))
        check_similarity(info, checkpoint["state_dict"])
        resumes = self._resumes()
        if AVERAGE_KEY in checkpoint and resumes:
            self._pending_average = checkpoint[AVERAGE_KEY]
            checkpoint["state_dict"] |= checkpoint[AVERAGE_KEY]["raw"]
        checkpoint["state_dict"] = self._completed(checkpoint["state_dict"])
        # a fit that starts from these weights draws as its own seed says
        self._pending_rng = checkpoint.get("rng_states") if resumes else None

    def _resumes(self) -> bool:
        """Whether it is fit that asks for the checkpoint."""
        return self._trainer is not None and self._trainer.state.fn == TrainerFn.FITTING

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Take up the random generators where the checkpoint left them."""
        if self._pending_rng is not None:
            if len(self._pending_rng) == self.trainer.world_size:
                set_rng_state(self._pending_rng[self.global_rank])
            self._pending_rng = None

    def checkpoint_info(self) -> CheckpointInfo:
        """Identity of encoders, class names and preprocessing, as the checkpoint keeps them."""
        return CheckpointInfo(
            format_version=FORMAT_VERSION,
            image_encoder=self._identity("image", self.model.image_encoder),
            text_encoder=self._identity("text", self.model.text_encoder),
            # numbers that stand for names are none
            class_names=self.hparams.get("class_names"),
            preprocessing=self.hparams.get("preprocessing"),
        )

    def _identity(self, role: str, encoder: Encoder) -> EncoderIdentity:
        name, revision = self._encoder_names[role]
        return EncoderIdentity(name=name, revision=revision, fingerprint=encoder.fingerprint)

    def _check_encoders(self, saved: CheckpointInfo) -> None:
        here = self.checkpoint_info()
        check_encoder("image", saved["image_encoder"], here["image_encoder"])
        check_encoder("text", saved["text_encoder"], here["text_encoder"])

    def _load_weights(self, checkpoint: dict[str, Any]) -> None:
        info = require_info(checkpoint)
        self._check_encoders(info)
        check_similarity(info, checkpoint["state_dict"])
        self.load_state_dict(self._completed(checkpoint["state_dict"]), strict=True)

    def _completed(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """For a strict load; ``weigh_interaction`` may differ, since without it the weight is 1."""
        state = dict(state)
        if self.model.interaction_weight is None:
            state.pop(_INTERACTION_WEIGHT, None)
        else:
            state.setdefault(_INTERACTION_WEIGHT, torch.ones_like(self.model.interaction_weight))
        return complete_state(self, state)
