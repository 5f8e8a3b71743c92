"""Adapter-sized checkpoints: trainable weights only, loaded strictly.

:func:`adapter_state` removes the frozen encoders on saving, :func:`complete_state` adds them on
loading. A checkpoint stores their identity, so that it cannot be loaded with other encoders.
"""

import pickle
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, TypedDict, cast

import torch
import yaml
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from epic_pl.errors import CheckpointError
from epic_pl.nn.encoders.base import Encoder
from epic_pl.untrusted import MOST_OPTIONS, require_flat, require_regular

CHECKPOINT_KEY = "epic_pl"
FORMAT_VERSION = 3
# errors of torch.load on damaged or foreign files, which have no common class
_UNREADABLE = (
    pickle.UnpicklingError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


class EncoderIdentity(TypedDict):
    """A frozen encoder's name, pinned revision and fingerprint."""

    name: str
    revision: str | None
    fingerprint: str


class CheckpointInfo(TypedDict):
    """Metadata of a checkpoint; plain types only."""

    format_version: int
    image_encoder: EncoderIdentity
    text_encoder: EncoderIdentity
    class_names: list[str] | None
    preprocessing: dict[str, Any] | None


def frozen_keys(module: nn.Module) -> set[str]:
    """Names in ``module.state_dict()`` of the encoders' frozen tensors."""
    prefixes = tuple(
        f"{name}." for name, child in module.named_modules() if isinstance(child, Encoder)
    )
    trained = {name for name, p in module.named_parameters() if p.requires_grad}
    return {key for key in module.state_dict() if key.startswith(prefixes)} - trained


def adapter_state(module: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """``state`` without the frozen encoders."""
    frozen = frozen_keys(module)
    return {key: value for key, value in state.items() if key not in frozen}


def complete_state(module: nn.Module, adapter: dict[str, Tensor]) -> dict[str, Tensor]:
    """The adapter's state with ``module``'s own frozen encoders added, for a strict load.

    Raises:
        CheckpointError: if a key is missing, unknown, or of another shape, or a value not finite.
    """

    def kind(tensor: Tensor) -> tuple[bool, bool]:
        return tensor.is_floating_point(), tensor.is_complex()

    state = module.state_dict()
    frozen = frozen_keys(module)
    expected = set(state) - frozen
    missing, unknown = sorted(expected - set(adapter)), sorted(set(adapter) - expected)
    if missing or unknown:
        parts = [f"it lacks {_some(missing)}"] if missing else []
        parts += [f"it has {_some(unknown)}, unknown here"] if unknown else []
        raise CheckpointError(
            f"The checkpoint does not fit this model: {' and '.join(parts)}. It was written for "
            "other options or another version; use the config that was saved beside it."
        )
    for key in sorted(expected):
        if not isinstance(adapter[key], Tensor) or kind(adapter[key]) != kind(state[key]):
            raise CheckpointError(
                f"The checkpoint's {key} is {_described(adapter[key])}, this model's "
                f"{_described(state[key])}: the file was changed since it was written."
            )
        if adapter[key].shape != state[key].shape:
            raise CheckpointError(
                f"The checkpoint's {key} has shape {tuple(adapter[key].shape)}, this model's "
                f"{tuple(state[key].shape)}: the number of classes, prompts or the hub's width "
                "differs; use the config that was saved beside the checkpoint."
            )
        if adapter[key].is_floating_point() and not bool(torch.isfinite(adapter[key]).all()):
            raise CheckpointError(
                f"The checkpoint's {key} holds NaN or infinite values: the run that wrote it had "
                "diverged. Use an earlier checkpoint."
            )
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
        f"fingerprint {here['fingerprint'][:12]}. Set model.encoders.{role} to the checkpoint's; "
        "prompts fit no other encoder."
    )


def check_class_names(saved: list[str] | None, here: list[str] | None) -> None:
    """Refuse data that names other classes, or the same in another order, than the checkpoint.

    Raises:
        CheckpointError: naming the first class that differs. Without names there is no check.
    """
    if saved is None or here is None or saved == here or len(saved) != len(here):
        return  # the check of the head's shape covers other lengths
    at = next(i for i, names in enumerate(zip(saved, here, strict=True)) if len(set(names)) > 1)
    raise CheckpointError(
        f"The checkpoint's class {at} is {saved[at]!r}, the data's is {here[at]!r}, so every "
        "prediction would have a wrong name. Give the data the checkpoint's classes in its order "
        f"({', '.join(saved[:8])}{', ...' if len(saved) > 8 else ''}), or train anew, from the "
        "checkpoint's weights with model.warm_start if you like."
    )


def require_info(checkpoint: dict[str, Any]) -> CheckpointInfo:
    """The checkpoint's :class:`CheckpointInfo`.

    Raises:
        CheckpointError: if there is none, or another version wrote it.
    """
    info = checkpoint.get(CHECKPOINT_KEY)
    if not isinstance(info, dict) or "format_version" not in info:
        raise CheckpointError(
            "This file is not a checkpoint of EPICModule: it does not say which encoders it "
            "belongs to. Give a file that epic-pl fit wrote under checkpoints/."
        )
    version = info["format_version"]
    if not isinstance(version, int) or version != FORMAT_VERSION:
        raise CheckpointError(
            f"The checkpoint has format {version!r:.20}, this version of epic_pl reads "
            f"format {FORMAT_VERSION} only: use the version that wrote it, or train anew."
        )
    for role in ("image_encoder", "text_encoder"):
        identity = info.get(role)
        if not (
            isinstance(identity, dict)
            and identity.keys() == EncoderIdentity.__annotations__.keys()
            and all(isinstance(identity[key], str) for key in ("name", "fingerprint"))
            and isinstance(identity["revision"], str | None)
        ):
            raise CheckpointError(f"The checkpoint's {role} is damaged: {identity!r}.")
    names = info.get("class_names")
    if names is not None and not (
        isinstance(names, list) and all(isinstance(name, str) for name in names)
    ):
        raise CheckpointError(f"The checkpoint's class names are damaged: {names!r}.")
    return cast(CheckpointInfo, info)


def read_checkpoint(path: str | IO[bytes]) -> dict[str, Any]:
    """Content of a checkpoint, a path or an open file, without running code.

    Raises:
        CheckpointError: if the file is missing, or has more than tensors and plain types.
    """
    try:
        if isinstance(path, str):
            require_regular(path)
        with zipfile.ZipFile(path) as archive:  # torch.load does not verify the checksums
            damaged = archive.testzip()
        if damaged is not None:
            raise OSError(f"{damaged} has another check sum")
        if not isinstance(path, str):
            path.seek(0)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"There is no checkpoint at {path!r}.") from error
    except PermissionError:
        raise
    except IsADirectoryError as error:
        raise CheckpointError(f"{path!r} is a folder: name a checkpoint in it.") from error
    except _UNREADABLE as error:
        raise CheckpointError(
            f"{path!r} cannot be read as a checkpoint of tensors and plain types: it is damaged, "
            "not a checkpoint, or would need code to be run to load it, which is refused."
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise CheckpointError(f"{path!r} holds no state_dict, so it is not a checkpoint.")
    if not isinstance(content.get("hyper_parameters", {}), dict):
        raise CheckpointError(f"The hyperparameters of {path!r} are not options: it is damaged.")
    refuse_classes(content.get("hyper_parameters"), path)
    return content


def newest_readable(root: Path, place: str, names: Sequence[str]) -> str:
    """The first readable file of ``names`` in the most recently written folder.

    Args:
        root: a folder.
        place: glob pattern of the files' folders below it.
        names: file names in order of preference; later ones are fallbacks for damaged files.

    Raises:
        CheckpointError: if there is none.
    """
    files = [path for name in names for path in root.glob(f"{place}/{name}")]
    if not files:
        raise CheckpointError(
            f"There is no {names[0]} in {root / place}: give --ckpt_path the path of a checkpoint, "
            "or set trainer.default_root_dir to that of the run; a first run has none."
        )
    newest = max(files, key=lambda path: path.stat().st_mtime).parent
    *others, final = [path for name in names if (path := newest / name) in files]
    for path in others:
        try:
            read_checkpoint(str(path))
        except CheckpointError as error:
            rank_zero_warn(f"{error} The one before it is taken.")
        else:
            return str(path)
    return str(final)


def refuse_classes(options: Any, path: str | IO[bytes]) -> None:
    """Refuse options that name a class to build, at any depth: building it would run code.

    Strings are checked, too, since the command line's parser reads them as YAML.

    Raises:
        CheckpointError: naming the class; or if they are nested too deeply to be checked.
    """
    try:
        if isinstance(options, str):
            # this loader finds all mappings, whatever tags and values mean to the parser's loader
            content = yaml.load(options, yaml.BaseLoader)
            options = None if isinstance(content, str) else content
        require_flat(options, MOST_OPTIONS)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, yaml.YAMLError) and "recursive" not in str(error):
            return  # not YAML, just text
        raise CheckpointError(
            f"The hyperparameters of {path!r} are none that epic_pl writes: {error}. Do not use it."
        ) from error
    if isinstance(options, Mapping):
        for key in ("class_path", "_class_path", "_instantiator"):
            if key in options:
                raise CheckpointError(
                    f"The hyperparameters of {path!r} name a class to build ({options[key]!r}), "
                    "which would run code. epic_pl writes no such checkpoints: do not use it."
                )
        options = list(options.values())
    if isinstance(options, list | tuple):
        for option in options:
            refuse_classes(option, path)
    elif not isinstance(options, int | float | None):
        raise CheckpointError(
            f"The hyperparameters of {path!r} hold a {type(options).__name__}, which is no option: "
            "the file was changed since it was written."
        )


def _described(value: object) -> str:
    return f"of {value.dtype}" if isinstance(value, Tensor) else f"{value!r:.40}"


def _some(keys: list[str]) -> str:
    shown = ", ".join(keys[:4])
    return shown if len(keys) <= 4 else f"{shown} and {len(keys) - 4} more"
