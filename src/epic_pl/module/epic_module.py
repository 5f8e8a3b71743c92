"""EPICModule: a LightningModule for all methods of the package.

Shape legend: B batch, C classes.
"""

import math
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any, Literal, Self, cast

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import disable_possible_user_warnings
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MeanMetric

from epic_pl.data import ImageTextDataModule
from epic_pl.data.preprocessing import Preprocessing, column_preprocessing
from epic_pl.data.pretrained import load_tokenizer
from epic_pl.data.processor import Processor
from epic_pl.module.checkpoint import CheckpointedModule
from epic_pl.module.companions import (
    AbsenceWarning,
    AveragedDecisions,
    LossLog,
    TrainingGuard,
)
from epic_pl.module.compilation import compile_model, mark_lengths
from epic_pl.module.config import (
    EncodersConfig,
    OptimConfig,
    as_choice,
    as_config,
    model_options,
    plain,
)
from epic_pl.module.growth import TreeGrower
from epic_pl.module.losses import CrossEntropy, Loss, build_matching_loss
from epic_pl.module.metrics import build_metrics, compute_metrics, final_metrics, metric_inputs
from epic_pl.module.optim import build_optimizer, set_rates, warmup_cosine
from epic_pl.module.outputs import OutputCollector
from epic_pl.module.postprocess import Postprocessor
from epic_pl.nn.base import Method
from epic_pl.nn.encoders.base import Encoder
from epic_pl.nn.heads import HeadConfig, Output
from epic_pl.nn.methods import EPIC
from epic_pl.nn.pair import Pair
from epic_pl.nn.precision import DTYPES
from epic_pl.utils.errors import ConfigError, DataError
from epic_pl.utils.plugins import name_of
from epic_pl.utils.types import Batch, Prediction, Task
from epic_pl.utils.validate import check_batch, check_classes, check_length, check_probabilities


class EPICModule(CheckpointedModule):
    """Trains, validates, tests and predicts with EPIC or another method.

    It works in any ``lightning.Trainer`` with any loader that yields dictionaries like
    :class:`epic_pl.utils.types.Batch`. Hyperparameters are stored as plain types, so that loading
    runs no code.

    Args:
        num_classes: number of classes C.
        encoders: both pretrained encoders.
        method: the method with its options, such as ``Parts()``; its class name or import path,
            such as "Parts"; or ``{"class_path": name, "init_args": options}``.
        head: parts of the classification head, for any method.
        loss: the loss with its options; given in the same ways as the method.
        optim: learning rates, weight decay and warm-up.
        task: "multiclass" or "multilabel".
        class_names: C names, stored in the checkpoint and used in predictions.
        class_frequencies: share of the training rows of each class, for the loss and for the head's
            initialisation; the command line takes it from the data.
        preprocessing: how images and texts were prepared, stored in the checkpoint.
        modality_dropout: probability with which a training sample loses one modality.
        compile: compile the model with ``torch.compile`` when a run starts.
        warm_start: checkpoint with initial weights; its optimiser, epoch and options are not
            loaded (for those, resume with ``ckpt_path``).

    Raises:
        ConfigError: if options are inconsistent.
        EncoderError: if an architecture is not supported.
        AssetError: if an encoder cannot be reached.
        CheckpointError: if ``warm_start`` does not fit.

    Example:
        >>> from epic_pl import EncoderConfig, EncodersConfig, EPICModule, Processor
        >>> encoders = EncodersConfig(EncoderConfig("tiny-vit"), EncoderConfig("tiny-bert"))
        >>> module = EPICModule(num_classes=3, encoders=encoders, method="Parts")
        >>> processor = Processor.from_encoders("tiny-vit", "tiny-bert")
        >>> batch = processor(images=["images/test0.png"], text=["a blue square"])
        >>> module(batch).logits.shape
        torch.Size([1, 3])
    """

    def __init__(
        self,
        num_classes: int,
        encoders: EncodersConfig,
        method: Method = EPIC(),  # noqa: B008 frozen
        head: HeadConfig = HeadConfig(),  # noqa: B008
        loss: Loss = CrossEntropy(),  # noqa: B008
        optim: OptimConfig = OptimConfig(),  # noqa: B008
        task: Task = "multiclass",
        class_names: list[str] | None = None,
        class_frequencies: list[float] | None = None,
        preprocessing: dict[str, Any] | None = None,
        modality_dropout: float = 0.0,
        compile: bool = False,
        warm_start: str | None = None,
    ) -> None:
        # resolve names to options, so that checkpoints store today's defaults
        method, loss = as_choice(Method, method, EPIC), as_choice(Loss, loss, CrossEntropy)
        encoders, head = as_config(EncodersConfig, encoders), as_config(HeadConfig, head)
        optim = as_config(OptimConfig, optim)
        head = replace(head, columns=column_preprocessing(preprocessing).width or head.columns)
        options = {k: plain(v) for k, v in locals().items() if k not in ("self", "__class__")}
        super().__init__()
        self.save_hyperparameters({k: v for k, v in options.items() if k != "warm_start"})
        check_classes(num_classes, task, class_names)
        check_probabilities(self.hparams, "modality_dropout")
        self.num_classes, self.task = num_classes, task
        self.class_names = class_names or [str(index) for index in range(num_classes)]
        self.encoders, self.optim = encoders, optim
        check_length("class_frequencies", class_frequencies, num_classes)
        self.method = method
        self.loss = loss.build(task, num_classes, class_frequencies)
        towers = self.build_encoders()
        # a checkpoint keeps the pooling that "auto" has found in an encoder's files
        self.hparams["encoders"]["text"]["pooling"] = towers.text.pooling
        self.model = method.build(towers, num_classes, head, modality_dropout, task)
        prior = loss.prior(task, num_classes, class_frequencies)
        for stack in self.model.stacks:
            stack.head.start_at(prior)
        self._matching = build_matching_loss(loss.matched_classes, self.class_names)
        self.postprocessor = Postprocessor(task, num_classes)
        self.outputs = OutputCollector(num_classes)
        self.train_metrics = build_metrics(task, num_classes, "train/")
        self.train_loss = MeanMetric(nan_strategy=math.nan)  # NaN stays
        means = {stage: MeanMetric(nan_strategy=math.nan) for stage in ("val", "test")}
        self.mean_losses = nn.ModuleDict(means)
        self._total_steps = math.inf  # until training starts
        self.loss_terms: dict[str, Tensor] = {}
        self._checked: set[str] = set()
        if warm_start is not None:
            self.load_weights(warm_start, new_training=True)
            for stack in self.model.stacks:
                if (experts := stack.head.experts) is not None:
                    experts.move_to(prior)  # the checkpoint's prior is of other data

    @property
    def method_name(self) -> str:
        """The name of the method's class, as files keep it."""
        return name_of(type(self.method))

    @classmethod
    def from_config(cls, config: str | Path, num_classes: int, **options: Any) -> Self:
        """Build the untrained module that ``epic-pl fit --config CONFIG`` would train.

        Args:
            config: a file, or the name of a packaged config such as ``table.yaml`` for tables.
            num_classes: number of classes C.
            **options: arguments of the class; a dictionary changes only the options in it.

        Raises:
            ConfigError: there is no such config, or it has no section ``model``.
        """
        return cls(num_classes, **model_options(str(config), options))

    def build_encoders(self) -> Pair[Encoder]:
        """Build both encoders from ``self.encoders``; override it for your own encoders."""
        return self.encoders.build()

    # -- steps

    def forward(self, batch: Batch) -> Output:
        """The model's output for a batch, with logits ``(B, C)``."""
        if self.hparams["compile"]:
            mark_lengths(batch)
        return cast(Output, self.model(batch))

    def compute_loss(self, logits: Tensor, labels: Tensor, batch: Batch) -> Tensor:
        """Mean loss of a batch in any stage; override it for a loss that needs the whole batch.

        Validation and test call it once, with the logits of the answer. Training calls it once for
        each of the trained logits of the model's ``Output``, and adds the results.

        Args:
            logits: ``(B, C)``.
            labels: class indices ``(B,)``, or 0/1 ``(B, C)`` for multilabel.
            batch: the whole batch.
        """
        return cast(Tensor, self.loss(logits, labels))

    def _checked_output(self, batch: Batch, stage: str) -> Output:
        """The model's output for a batch, after a check: of each on a CPU, else of the first."""
        if stage not in self._checked or self.device.type == "cpu":  # other devices would wait
            self._checked.add(stage)
            size = self.model.image_encoder.required_size
            check_batch(batch, self.task, self.num_classes, size)
        return cast(Output, self(batch))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one training batch; keeps its terms, which a callback logs, in ``loss_terms``.

        It needs no Trainer.
        """
        output, labels = self._checked_output(batch, "train"), batch["labels"]
        losses, members = self._training_losses(output, batch), len(output.members) or 1
        self.loss_terms = {name: part.detach() / members for name, part in losses.items()}
        probabilities = self.postprocessor.uncalibrated(output.logits.detach())
        self.train_metrics.update(metric_inputs(self.task, probabilities), labels.int())
        return reduce(torch.add, losses.values())

    def on_train_epoch_end(self) -> None:
        """Log the metrics of the epoch's training batches."""
        super().on_train_epoch_end()
        self.log_dict(self.train_metrics)

    def _training_losses(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        """The terms of the training loss by name: of the trained logits, and the matching loss.

        Those of an ensemble are the sums over its members.
        """
        labels, losses = batch["labels"], dict[str, Tensor]()
        for one in output.members or [output]:
            trained = one.trained or {"joint": one.logits}
            terms = {name: self.compute_loss(part, labels, batch) for name, part in trained.items()}
            if one.penalty is not None:
                terms["penalty"] = one.penalty
            if self._matching and one.matched:
                terms["matching"] = self._matching(one.matched, labels)
            for name, term in terms.items():
                losses[name] = losses[name] + term if name in losses else term
        return losses

    def _evaluate(self, batch: Batch, stage: Literal["val", "test"]) -> Tensor:
        """Log the mean loss over the rows so far, and keep the outputs."""
        output, labels = self._checked_output(batch, stage), batch["labels"]
        loss = self.compute_loss(output.logits, labels, batch)
        # Lightning's mean over ranks does not weight them by rows
        mean = cast(MeanMetric, self.mean_losses[stage])
        mean.update(loss.detach(), len(labels))
        self.log(f"{stage}/loss", mean, prog_bar=stage == "val", batch_size=len(labels))
        self.outputs.add(batch, output.logits, output.candidates if stage == "val" else None)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of a validation batch; its outputs are kept in ``outputs``."""
        return self._evaluate(batch, "val")

    def on_validation_start(self) -> None:
        """Reset the state of an interrupted validation."""
        super().on_validation_start()
        self.outputs.start(self.trainer.world_size)
        # after validate() its state holds inference-mode tensors, which fit cannot use
        cast(MeanMetric, self.mean_losses["val"]).reset()

    def on_validation_epoch_end(self) -> None:
        """Log the metrics; in training fit the postprocessor, before the checkpoint is written."""
        super().on_validation_epoch_end()
        outputs, fits = self.outputs.merged(), self.trainer.state.fn == TrainerFn.FITTING
        if fits:
            self.outputs.clear()  # training needs the memory
        if not len(outputs.logits):  # a subclass's own steps keep no outputs
            return
        fits = fits and not self.trainer.sanity_checking
        if fits and len(outputs.candidates):
            chosen = self.model.choose(outputs.candidates, outputs.labels)
            outputs = outputs._replace(logits=chosen)
        probabilities = self.postprocessor.uncalibrated(outputs.logits)
        self._log_scores("val", compute_metrics(self.task, probabilities, outputs.labels))
        if fits:
            self.postprocessor.fit(outputs.logits, outputs.labels)
            self.calibration_rows = len(outputs.logits)

    def on_test_start(self) -> None:
        """Reset the state of an earlier test."""
        super().on_test_start()
        self.outputs.start(self.trainer.world_size)
        cast(MeanMetric, self.mean_losses["test"]).reset()

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one test batch; its outputs are kept in ``outputs``."""
        return self._evaluate(batch, "test")

    def on_test_epoch_end(self) -> None:
        """Log the metrics; multilabel: at 0.5 and, as ``..._tuned``, at fitted thresholds."""
        super().on_test_epoch_end()
        outputs = self.outputs.merged()
        if len(outputs.logits):
            post = self.postprocessor.on_cpu()
            self._log_scores("test", final_metrics(post, outputs.logits, outputs.labels))

    def _log_scores(self, stage: str, scores: dict[str, float]) -> None:
        """Log scores of all samples; every rank has computed the same ones."""
        self.log_dict({f"{stage}/{k}": value for k, value in scores.items()}, sync_dist=True)

    def predict_step(self, batch: Batch, batch_idx: int) -> Prediction:
        """Ids and probabilities ``(B, C)`` of one batch, on the CPU.

        Raises:
            DataError: if the batch has no ``sample_id``.
        """
        if "sample_id" not in batch:
            raise DataError(
                "This batch lacks sample_id, which names predictions: let the loader add strings."
            )
        logits = self(batch).logits
        self.outputs.add(batch, logits)
        probabilities = self.postprocessor(logits).cpu()
        return Prediction(sample_id=list(batch["sample_id"]), probabilities=probabilities)

    # -- optimisation

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with linear warm-up and a cosine schedule, updated at each step."""
        optimizer = build_optimizer(self.model, self.optim)
        schedule = LambdaLR(optimizer, self._lr_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        """Take a step and free its gradients, which Lightning keeps in the next forward pass."""
        super().optimizer_step(*arguments, **options)
        self.zero_grad()

    def _lr_factor(self, step: int) -> float:
        return warmup_cosine(step, self._total_steps, self.optim.warmup)

    def on_fit_start(self) -> None:
        """Reset what an earlier validation decided, unless the run resumes."""
        super().on_fit_start()
        # Lightning warns of modules in eval mode, as frozen encoders are
        disable_possible_user_warnings("lightning.pytorch.loops.fit_loop")
        if self.trainer.ckpt_path is None:  # a warm start loads a calibration
            self.postprocessor.reset()
            self.calibration_rows = None
            for choice in self.model.choices:
                choice.reset()

    def on_train_start(self) -> None:
        """Set the train mode and the schedule's number of steps.

        Reading this number in ``configure_optimizers`` would build the loaders before their state
        is restored, so a resumed run would restart its epoch.
        """
        super().on_train_start()
        self.train()  # after inference the mode is eval, and Lightning would keep it
        self._total_steps = float(self.trainer.estimated_stepping_batches)
        for config in self.trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, LambdaLR):  # a subclass may have one of its own
                set_rates(config.scheduler)

    def configure_callbacks(self) -> list[Callback]:
        """Callbacks that grow trees, log and guard the loss, and warn of missing modalities."""
        return [TreeGrower(), LossLog(), TrainingGuard(), AbsenceWarning(), AveragedDecisions()]

    # -- devices

    def check_device(self, device: torch.device) -> None:
        """Set the encoders' precision on a device.

        "auto" is replaced by the device's choice, which the files of the run keep, so that resumed
        runs, tests and other machines compute the same.

        Raises:
            ConfigError: if the device does not support this precision.
        """
        self.encoders = self.encoders.on_device(device.type, self.model.image_tower.dtype)
        precision = self.encoders.precision
        if self.hparams["encoders"]["precision"] != precision:
            options = {**self.hparams["encoders"], "precision": precision}
            self.save_hyperparameters({"encoders": options})
        for tower in self.model.towers:
            tower.encoder.precision = DTYPES[precision]

    @property
    def processor(self) -> Processor:
        """What turns images and texts into a batch, as in training.

        Raises:
            ConfigError: if the module has no preprocessing options.
            CheckpointError: if it was trained with another tokenizer.
            AssetError: if the text encoder's tokenizer cannot be loaded.
        """
        image, text, columns = Preprocessing.from_dict(self.hparams["preprocessing"])
        encoder = self.checkpoint_info()["text_encoder"]
        tokenizer = load_tokenizer(encoder["name"], encoder["revision"])
        return Processor(image, text, tokenizer, self.task, len(self.class_names), columns)

    def setup(self, stage: str) -> None:
        """Check that the device supports the options, and compile the model if requested.

        Raises:
            ConfigError: if the device does not support an option.
        """
        super().setup(stage)
        self.outputs.clear()
        columns = column_preprocessing(self.hparams["preprocessing"])
        if columns.names and (data := ImageTextDataModule.of(self.trainer)):
            data.read_columns_as(columns)
        device = self.trainer.strategy.root_device
        self.check_device(device)
        if self.hparams["compile"]:
            compile_model(self.model, device)


def require_data(trainer: L.Trainer, module: L.LightningModule, option: str) -> ImageTextDataModule:
    """The trainer's DataModule, for an option that reads its samples.

    Raises:
        ConfigError: if DataModule or module is not of this package.
    """
    data = ImageTextDataModule.of(trainer)
    if data is not None and isinstance(module, EPICModule):
        return data
    raise ConfigError(
        f"{option} needs ImageTextDataModule with EPICModule: leave it out for loaders of your own."
    )
