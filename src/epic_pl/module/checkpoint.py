"""Adapter-sized checkpoints: trained weights only, loaded strictly.

:func:`adapter_state` removes the frozen encoders on saving, :func:`complete_state` adds them on
loading. A checkpoint stores their identity, so that it cannot be loaded with other encoders.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from inspect import signature
from typing import Any, Self, TypedDict, cast, get_type_hints

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from epic_pl.data.preprocessing import Preprocessing, check_tokenizer, column_preprocessing
from epic_pl.module.checkpoint_io import read_checkpoint
from epic_pl.module.config import EncoderConfig, EncodersConfig
from epic_pl.module.postprocess import check_calibration
from epic_pl.module.resume import check_resumable, gather_states, restore_state
from epic_pl.nn.base import DualEncoder
from epic_pl.nn.encoders.base import Encoder
from epic_pl.utils.errors import CheckpointError, ConfigError, first_line
from epic_pl.utils.plugins import name_of
from epic_pl.utils.types import Batch
from epic_pl.utils.validate import fits

CHECKPOINT_KEY = "epic_pl"
CHECKPOINT_FORMAT = 5
_RESUME_KEY = "resume_states"
_DATA_OPTIONS = {
    ("image", "size"): "image_size",
    ("image", "resize"): "resize",
    ("text", "max_tokens"): "max_text_tokens",
    ("text", "clean"): "clean_text",
    ("text", "prompt"): "text_prompt",
}
_TOO_LARGE = 1e15  # no weight or statistic of features is near; products of it are not finite
# weights whose last inputs are the features of the columns
_READS_COLUMNS = re.compile(
    r"\.head\.(classifier(\.linear|\.network\.0|\.layers\.\d+)?|experts\.columns)\.weight$"
)
_EXPERT = re.compile(r"\.head\.(experts\.columns|trees)\.")
_TREES = ".head.trees."
# what has a row for each class
_OF_CLASSES = ("model.head.", "model.members.", "loss.", "postprocessor.")
_TRAINED_KEY = "current_model_state"  # with WeightAveraging, where state_dict has the average


class EncoderIdentity(TypedDict):
    """A frozen encoder's name, pinned revision and fingerprint."""

    name: str
    revision: str | None
    fingerprint: str


class CheckpointInfo(TypedDict):
    """Metadata of a checkpoint, as plain types."""

    format_version: int
    module: str
    image_encoder: EncoderIdentity
    text_encoder: EncoderIdentity
    class_names: list[str] | None
    preprocessing: dict[str, Any] | None
    calibration_rows: int | None


def frozen_keys(module: nn.Module) -> set[str]:
    """Keys of the encoders' frozen tensors in ``module.state_dict()``."""
    prefixes = tuple(f"{name}." for name, m in module.named_modules() if isinstance(m, Encoder))
    trained = {name for name, p in module.named_parameters() if p.requires_grad}
    return {key for key in module.state_dict() if key.startswith(prefixes)} - trained


def weights_digest(module: nn.Module) -> str:
    """SHA-256 of the weights that a checkpoint stores, without the frozen encoders."""
    digest = hashlib.sha256()
    for name, tensor in sorted(adapter_state(module, module.state_dict()).items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().reshape(-1).contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def adapter_state(module: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """``state`` without the frozen encoders."""
    frozen = frozen_keys(module)
    return {key: value for key, value in state.items() if key not in frozen}


def complete_state(module: nn.Module, adapter: dict[str, Tensor]) -> dict[str, Tensor]:
    """``adapter`` with the frozen encoders of ``module`` added, for a strict load.

    Raises:
        CheckpointError: if a key is missing, unknown, or of another shape, or a value not finite
            or without a meaning.
    """
    state = module.state_dict()
    frozen = frozen_keys(module)
    expected = set(state) - frozen
    missing, unknown = sorted(expected - set(adapter)), sorted(set(adapter) - expected)
    if missing or unknown:
        parts = [f"it lacks {_abridged(missing)}"] if missing else []
        parts += [f"it has {_abridged(unknown)}, unknown here"] if unknown else []
        raise CheckpointError(
            f"The checkpoint does not fit this model: {' and '.join(parts)}. It was written with "
            "other options or another version; use the config that was saved beside it."
        )
    for key in sorted(expected):
        saved, here = _form(adapter[key]), _form(state[key])
        if saved != here:
            raise CheckpointError(
                f"The checkpoint's {key} is {saved}, this model's {here}: the number of classes, "
                "prompts, parts or the hub's width differs; use the config saved beside it. "
                "Trees of more than 20 classes that 0.4.0 wrote are read no more: train anew."
            )
        # a comparison with NaN is false
        if adapter[key].is_floating_point() and not bool(
            (adapter[key].double().abs() < _TOO_LARGE).all()
        ):
            raise CheckpointError(
                f"The checkpoint's {key} holds NaN, or values of {_TOO_LARGE:.0e} or more: use an "
                "earlier checkpoint."
            )
        if key.endswith(".trees.inputs"):
            known: Any = module.get_submodule(key.rpartition(".")[0]).num_inputs
            if not bool(((adapter[key] >= 0) & (adapter[key] < known)).all()):
                raise CheckpointError(f"The checkpoint's {key} names inputs that there are not.")
    return {**{key: state[key] for key in frozen}, **adapter}


def check_encoder(role: str, saved: EncoderIdentity, here: EncoderIdentity) -> None:
    """Refuse a checkpoint that was trained on another frozen encoder.

    Raises:
        CheckpointError: if the fingerprints differ.
    """
    if saved["fingerprint"] == here["fingerprint"]:
        return
    revision = f" at revision {saved['revision']}" if saved["revision"] else ""
    raise CheckpointError(
        f"The checkpoint was trained on the {role} encoder {saved['name']!r}{revision} with "
        f"fingerprint {saved['fingerprint'][:12]}, but this model has {here['name']!r} with "
        f"fingerprint {here['fingerprint'][:12]}: set model.encoders.{role} to the checkpoint's."
    )


def check_classes(saved: tuple[Any, Any], here: tuple[Any, Any], source: str) -> None:
    """Refuse data of another task than a checkpoint's, of other classes, or in another order.

    Args:
        saved: task and class names of the checkpoint.
        here: task and class names of the data.
        source: the checkpoint, for the message.

    Raises:
        CheckpointError: with both from the first class that differs. Without names no check.
    """
    if saved == here or not (isinstance(saved[1], list) and isinstance(here[1], list)):
        return
    both = zip(saved[1], here[1], strict=False)
    at = next((i for i, (one, other) in enumerate(both) if one != other), 0)
    before, now = (f"{task}, {len(c)} classes: {_abridged(c[at:])}" for task, c in (saved, here))
    raise CheckpointError(
        f"{source} was trained on other classes ({before}) than the data's ({now}), shown from "
        f"number {at} on: give the data its classes in its order, as the config.yaml of its run "
        "does, give a checkpoint of this data, or train anew (fit without --ckpt_path)."
    )


def with_new_classes(
    adapter: dict[str, Tensor], here: dict[str, Tensor], saved: list[str], names: list[str]
) -> dict[str, Tensor]:
    """Trained weights for more classes: known ones by name, rows of new ones from ``here``.

    Args:
        adapter: trained weights for the classes ``saved``.
        here: weights of a new model for the classes ``names``.
        saved: class names of the checkpoint, all of which are in ``names``.
        names: class names of the new model.
    """
    rows, widened = [names.index(name) for name in saved], dict(adapter)
    for key, tensor in adapter.items():
        own, first = here.get(key), key.startswith("model.members.")  # those come before classes
        if not key.startswith(_OF_CLASSES) or own is None or own.shape == tensor.shape:
            continue
        if _TREES in key:  # they are grown anew, perhaps shared now
            widened[key] = own
            continue
        wider = [*tensor.shape]
        if wider[first:][:1] == [len(saved)]:
            wider[first] = len(names)
        if [*own.shape] == wider:
            widened[key] = own.index_copy(int(first), torch.tensor(rows), tensor.to(own))
    return widened


def with_new_columns(
    adapter: dict[str, Tensor],
    here: dict[str, Tensor],
    saved: Sequence[tuple[str, str]],
    features: Sequence[tuple[str, str]],
) -> dict[str, Tensor]:
    """Trained weights for other columns: known features by name, zeros for new ones.

    Args:
        adapter: trained weights for the columns' features ``saved``.
        here: weights of a new model for ``features``, whose expert is taken if there was none.
            Without any, the checkpoint's expert is left out.
        saved: features of the checkpoint, as ``ColumnPreprocessing.features`` names them.
        features: features of the new model.
    """
    known = [index for index, name in enumerate(saved) if name in features]
    places = [features.index(saved[index]) for index in known]
    changed = {key: own for key, own in adapter.items() if not _EXPERT.search(key)}
    for key in filter(_EXPERT.search, here):  # trees are grown anew
        changed[key] = here[key] if _TREES in key else adapter.get(key, here[key])
    for key in filter(_READS_COLUMNS.search, changed.keys() & adapter.keys()):
        others = adapter[key].shape[-1] - len(saved)
        wide = adapter[key].new_zeros(*adapter[key].shape[:-1], others + len(features))
        wide[..., :others] = adapter[key][..., :others]
        wide[..., [others + place for place in places]] = adapter[key][
            ..., [others + index for index in known]
        ]
        changed[key] = wide
    return changed


def check_preprocessing(saved: Any, here: Any) -> None:
    """Refuse data that is preprocessed in another way than the checkpoint's training data.

    Raises:
        CheckpointError: naming the option that differs. Without both sides there is no check.
    """
    theirs, ours = input_options(saved), input_options(here)
    # options first, then what follows from them
    names = sorted(theirs.keys() | ours.keys(), key=lambda name: (name.count("."), name))
    for name in names if theirs and ours else ():
        if theirs.get(name) != ours.get(name):
            raise CheckpointError(
                f"The checkpoint was trained with data.{name} {theirs.get(name)!r}, but this data "
                f"has {ours.get(name)!r}, which would change its probabilities: leave that option "
                "out, or train anew, perhaps from the checkpoint's weights with model.warm_start."
            )
    if (own := Preprocessing.find(saved)) and (other := Preprocessing.find(here)):
        if own.columns != other.columns:
            names = [", ".join(each.columns.names) or "none" for each in (own, other)]
            raise CheckpointError(
                f"The checkpoint reads other columns ({names[0]}) than this data ({names[1]}), or "
                "knows other quantiles or values of them: name the same columns, or train anew, "
                "perhaps from its weights with model.warm_start."
            )
        name = here.get("text_encoder", "the data")
        check_tokenizer(own.text.tokenizer, other.text.tokenizer, name)


def input_options(preprocessing: Any) -> dict[str, Any]:
    """Options of the DataModule, by name, that change an encoder's inputs for the same rows."""
    known, options = preprocessing if isinstance(preprocessing, dict) else {}, {}
    for side in ("image", "text"):
        values = known.get(side)
        for name, value in values.items() if isinstance(values, dict) else ():
            # where texts come from is no option, and a tokenizer has a message of its own
            if name not in ("source", "tokenizer"):
                options[_DATA_OPTIONS.get((side, name), f"{side}.{name}")] = value
    return options


def require_info(checkpoint: dict[str, Any], source: Any = "The checkpoint") -> CheckpointInfo:
    """The :class:`CheckpointInfo` of a checkpoint, which messages call ``source``.

    Raises:
        CheckpointError: if there is none, or another version wrote it.
    """
    info = checkpoint.get(CHECKPOINT_KEY)
    if not isinstance(info, dict) or "format_version" not in info:
        raise CheckpointError(
            f"{source} is not a checkpoint of EPICModule: give one that epic-pl fit has written."
        )
    version = info["format_version"]
    if not isinstance(version, int) or version != CHECKPOINT_FORMAT:
        raise CheckpointError(
            f"{source} has format {version!r:.20}, this version of epic_pl reads "
            f"format {CHECKPOINT_FORMAT} only: use the version that wrote it, or train anew."
        )
    for name, kind in get_type_hints(CheckpointInfo).items():
        if not fits(value := info.get(name), kind):
            raise CheckpointError(f"{source}'s {name} is damaged: {value!r:.80}.")
    return cast(CheckpointInfo, info)


def _identity(config: EncoderConfig, encoder: Encoder) -> EncoderIdentity:
    return {"name": config.name, "revision": config.revision, "fingerprint": encoder.fingerprint}


def _form(value: object) -> str:
    """Kind of numbers and shape of a stored value, to compare with the model's."""
    if not isinstance(value, Tensor):
        return f"{value!r:.40}"
    if value.is_meta or value.is_nested or value.layout is not torch.strided:
        return "a tensor that is sparse, nested or without numbers"
    kind = "a complex tensor" if value.is_complex() else "an integer tensor"
    kind = "a floating-point tensor" if value.is_floating_point() else kind
    return f"{kind} of shape {tuple(value.shape)}"


def _abridged(keys: list[str]) -> str:
    shown = ", ".join(map(str, keys[:4]))
    return shown if len(keys) <= 4 else f"{shown} and {len(keys) - 4} more"


class CheckpointedModule(L.LightningModule):
    """A module whose checkpoints hold trained weights and the state for an exact resume.

    Attributes:
        model: the model; its frozen encoders stay out of checkpoints.
        encoders: names and revisions of the encoders.
        calibration_rows: validation rows to which the postprocessor was fitted; None if
            they were not, or a checkpoint does not say.
    """

    model: DualEncoder
    encoders: EncodersConfig
    calibration_rows: int | None = None
    _resume_states: list[dict[str, Any]] | None = None

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
        """Load a module as Lightning does, but never run code or build a class from the file.

        Raises:
            CheckpointError: if the file cannot be read, names a class to build, or does not fit.
            ConfigError: if ``hparams_file`` is given, since a checkpoint has its options, or if
                ``strict`` or ``weights_only`` is False, which is not possible.
        """
        if hparams_file is not None or strict is False or weights_only is False:
            how = "A checkpoint holds its options, and is loaded strictly and without running code"
            raise ConfigError(f"{how}: leave out hparams_file, strict and weights_only.")
        is_file = hasattr(checkpoint_path, "read")
        content = read_checkpoint(checkpoint_path if is_file else str(checkpoint_path))
        module = cls.from_content(content, checkpoint_path, **kwargs)
        return module if map_location is None else module.to(map_location)

    @classmethod
    def from_content(cls, checkpoint: dict[str, Any], source: Any, **changes: Any) -> Self:
        """Build the module that the content of a checkpoint describes, with its weights.

        Args:
            checkpoint: content with checked options; it is changed.
            source: its file, for messages.
            **changes: options that replace the checkpoint's.

        Raises:
            CheckpointError: if no module can be built of it, or its weights do not fit.
        """
        options = checkpoint.get("hyper_parameters", {}) | changes
        try:
            module = cls(**options)
        except (AttributeError, ConfigError, LookupError, RuntimeError, TypeError, ValueError) as e:
            raise CheckpointError(f"No model can be built of {source}: {first_line(e)}.") from e
        module.on_load_checkpoint(checkpoint)
        module.load_state_dict(checkpoint["state_dict"], strict=True)
        return module

    def checkpoint_info(self) -> CheckpointInfo:
        """Identity of encoders, class names and preprocessing, as stored in the checkpoint."""
        image, text = self.encoders.image, self.encoders.text
        return CheckpointInfo(
            format_version=CHECKPOINT_FORMAT,
            module=name_of(type(self)),
            image_encoder=_identity(image, self.model.image_encoder),
            text_encoder=_identity(text, self.model.text_encoder),
            class_names=self.hparams.get("class_names"),  # None if no names were passed
            preprocessing=self.hparams.get("preprocessing"),
            calibration_rows=self.calibration_rows,
        )

    def require_options(self) -> None:
        """Raise ConfigError for an option of a subclass that its files would lose."""
        for name, parameter in signature(type(self)).parameters.items():
            named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
            if named and name != "warm_start" and name not in self.hparams:
                lost = f"{name_of(type(self))} has the option {name}, which checkpoints would lose"
                raise ConfigError(f"{lost}: call self.save_hyperparameters({name!r}) in __init__.")

    def digest(self) -> str:
        """SHA-256 of weights, encoders and options, and of how this device computes."""
        here = self.device.type, self.model.image_tower.provenance["precision"]
        known = weights_digest(self), self.checkpoint_info(), dict(self.hparams), here
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store trained weights only, the encoders' identity, and the state for an exact resume."""
        super().on_save_checkpoint(checkpoint)
        self.require_options()
        for key in checkpoint.keys() & {"state_dict", _TRAINED_KEY}:
            checkpoint[key] = adapter_state(self, checkpoint[key])
        checkpoint[CHECKPOINT_KEY] = self.checkpoint_info()
        checkpoint[_RESUME_KEY] = gather_states(self, self._mid_window())

    @property
    def attached_trainer(self) -> L.Trainer | None:
        """The trainer, or None before one has taken this module."""
        return self._trainer  # `trainer` raises an error then, and in Fabric is a stand-in

    def _mid_window(self) -> bool:
        """Whether gradients were accumulated since the last optimiser step."""
        trainer = self.attached_trainer
        if trainer is None:
            return False
        progress: Any = trainer.fit_loop.epoch_loop.batch_progress
        half = progress.current.processed % trainer.accumulate_grad_batches
        return bool(half) and not progress.is_last_batch  # the last batch always makes a step

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check the checkpoint, and complete it for Lightning's strict load.

        Raises:
            CheckpointError: if it is not one of this package, was trained on other encoders or
                classes, or a key is missing, unknown or of another shape.
        """
        super().on_load_checkpoint(checkpoint)
        checkpoint["state_dict"] = self.checked_state(checkpoint)
        # only a resumed fit restores the random generators
        trainer = self.attached_trainer
        fits = trainer is not None and trainer.state.fn == TrainerFn.FITTING
        if fits:
            check_resumable(checkpoint)
            if trained := checkpoint.get(_TRAINED_KEY):
                checkpoint[_TRAINED_KEY] = complete_state(self, trained)
        elif trainer is not None:  # Lightning would warn of callbacks that only train
            callbacks: Any = trainer.callbacks  # type: ignore[attr-defined]  # Lightning's
            states, known = checkpoint.get("callbacks", {}), {each.state_key for each in callbacks}
            checkpoint["callbacks"] = {key: states[key] for key in states.keys() & known}
        self._resume_states = checkpoint[_RESUME_KEY] if fits else None

    def checked_state(
        self, checkpoint: dict[str, Any], new_training: bool = False, source: str = "The checkpoint"
    ) -> dict[str, Tensor]:
        """The trained weights of a checkpoint and the frozen weights of this model.

        Messages call the checkpoint ``source``. Without ``new_training``, data must be preprocessed
        as for the checkpoint. With it, the data may have more classes: known ones keep their
        weights, new ones start at their frequency.
        """
        info, here = require_info(checkpoint, source), self.checkpoint_info()
        check_encoder("image", info["image_encoder"], here["image_encoder"])
        check_encoder("text", info["text_encoder"], here["text_encoder"])
        adapter, saved, names = checkpoint["state_dict"], info["class_names"], here["class_names"]
        if new_training:
            read = [column_preprocessing(each["preprocessing"]).features for each in (info, here)]
            if read[0] != read[1]:
                adapter = with_new_columns(adapter, self.state_dict(), *read)
        if new_training and saved and names and set(saved) < set(names):
            adapter = with_new_classes(adapter, self.state_dict(), saved, names)
            new = [name for name in names if name not in saved]
            rank_zero_info(
                f"New classes beside the checkpoint's {len(saved)}: {', '.join(new)}. Rows that it "
                "was trained on must not be test rows now: keep both splits in a column."
            )
        else:
            task = self.hparams.get("task")
            check_classes((task, saved), (task, names), source)
        if not new_training:
            check_preprocessing(info.get("preprocessing"), here["preprocessing"])
        state = complete_state(self, adapter)
        try:
            least = state.get("postprocessor.thresholds")
            values = None if least is None else least.tolist()
            check_calibration(float(state["postprocessor.temperature"]), values)
        except ConfigError as error:
            raise CheckpointError(f"{source} is damaged: its {error}") from error
        self.calibration_rows = info.get("calibration_rows")
        return state

    def load_weights(self, path: str, new_training: bool = False) -> None:
        """Load the weights of a checkpoint file strictly; see :meth:`checked_state`.

        Raises:
            CheckpointError: if the file cannot be read, or does not fit this model or its data.
        """
        state = self.checked_state(read_checkpoint(path), new_training, path)
        self.load_state_dict(state, strict=True)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> int | None:
        """Restore random generators and gradients from the checkpoint before the first batch."""
        skip = super().on_train_batch_start(batch, batch_idx)
        states, self._resume_states = self._resume_states, None
        if states is not None and len(states) == self.trainer.world_size:
            restore_state(self, states[self.global_rank])
        return skip
