"""Checkpoint files: written whole or not at all, and read without running code."""

import io
import zipfile
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import IO, Any

import torch
import yaml
from lightning.fabric.plugins import TorchCheckpointIO

from epic_pl.data.preprocessing import column_preprocessing
from epic_pl.module.losses import Loss
from epic_pl.nn.base import Method
from epic_pl.nn.encoders.base import Encoder
from epic_pl.utils.errors import CheckpointError, ConfigError, first_line
from epic_pl.utils.files import write_bytes
from epic_pl.utils.plugins import find_class
from epic_pl.utils.untrusted import MOST_OPTIONS, integers, require_flat, require_regular
from epic_pl.utils.validate import fits

LAST = "last.ckpt"
_CLASSES: dict[str, type] = {"method": Method, "loss": Loss}
"""Options that name a class."""
_MANY = 1000  # of anything can be built in a moment
# names under which Lightning looks for hyperparameters, too
_FOREIGN_KEYS = {"hparams", "module_arguments"}
# keys that the command line's parser reads as more than an option, or that choose a file
_SPECIAL_KEYS = ("class_path", "_class_path", "_instantiator", "init_args", "dict_kwargs")
MADE_BY_DATA = ("class_names", "preprocessing")
"""Options that come from the data, with names and values of its user."""


class DurableCheckpointIO(TorchCheckpointIO):
    """Writes a temporary file beside the target, flushes it to disk, and renames it.

    Lightning's own plugin writes to the system's temporary folder first; moving from there to
    another filesystem is a copy that a kill can interrupt. Pass this one as
    ``Trainer(plugins=[...])``; the command line does. URLs such as ``s3://`` are left to Lightning.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Replace the file at ``path``.

        Raises:
            CheckpointError: if it cannot be written, for example for lack of space; the previous
                file stays intact.
        """
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        content = io.BytesIO()
        torch.save(checkpoint, content)
        try:
            write_bytes(Path(path), content.getbuffer())
        except OSError as error:
            raise CheckpointError(
                f"{path} cannot be written: {error.strerror or error}. Make room, or set another "
                "trainer.default_root_dir, and resume an earlier one with --ckpt_path."
            ) from error


def read_checkpoint(path: str | IO[bytes]) -> dict[str, Any]:
    """Read a checkpoint from a path or an open file without running code.

    Raises:
        CheckpointError: if the file is missing, damaged, or needs code to be loaded.
    """
    try:
        if isinstance(path, str):
            if "://" in path:  # Lightning would read it from elsewhere, so it cannot be checked
                way_out = "download the file, and give its path"
                raise CheckpointError(f"{path!r} is an address: {way_out}.")
            require_regular(path)
        with zipfile.ZipFile(path) as archive:  # torch.load does not verify the checksums
            # torch compresses nothing, and a small file could unpack to any size
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise OSError("it is compressed")
            damaged = archive.testzip()
        if damaged is not None:
            raise OSError(f"the checksum of {damaged} is wrong")
        if not isinstance(path, str):
            path.seek(0)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"There is no checkpoint at {path!r}.") from error
    except (CheckpointError, PermissionError, MemoryError):
        raise
    except IsADirectoryError as error:
        raise CheckpointError(f"{path!r} is a folder: name a checkpoint in it.") from error
    except Exception as error:  # torch.load raises errors of any class on damaged files
        raise CheckpointError(
            f"{path!r} cannot be read as a checkpoint of tensors and plain types: it is damaged, "
            "no checkpoint, or would need code to be run."
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise CheckpointError(f"{path!r} holds no state_dict, so it is not a checkpoint.")
    if foreign := _FOREIGN_KEYS & content.keys():
        raise CheckpointError(f"{path!r} has {sorted(foreign)[0]}, which epic_pl never writes.")
    check_content(content, path)
    return content


def newest_checkpoint(root: Path, place: str, names: Sequence[str]) -> str:
    """The first file of ``names`` that there is in the most recently written folder.

    Args:
        root: a folder.
        place: glob pattern of the files' folders below it.
        names: file names in order of preference.

    Raises:
        CheckpointError: if there is none.
    """
    files = [path for name in names for path in root.glob(f"{place}/{name}")]
    if not files:
        none = f"There is no {' or '.join(names)} in {root / place}: run `epic-pl fit` first"
        raise CheckpointError(f"{none}, or set --ckpt_path or trainer.default_root_dir.")
    newest = max(files, key=lambda path: path.stat().st_mtime).parent
    return str(next(path for path in files if path.parent == newest))


def check_content(content: dict[str, Any], path: str | IO[bytes]) -> None:
    """Refuse a file whose options name a class, except known methods, losses and encoders.

    Options of many more classes or members than a file has weights are refused before these are
    built.

    Raises:
        CheckpointError: naming the class, if it is unknown or its package is not trusted, or a
            number of the options that is larger than each axis of each tensor.
    """
    options = content.get("hyper_parameters", {})
    if not isinstance(options, dict):
        raise CheckpointError(f"The hyperparameters of {path!r} are not options: it is damaged.")
    if "warm_start" in options:
        raise CheckpointError(f"{path!r} names a file of weights, which epic_pl never writes.")
    rest = dict(options)
    for name, base in _CLASSES.items():
        if name not in options:
            continue
        rest[name] = own = _class_options(base, options[name], name, path)
        if issubclass(base, Method) and isinstance(own, Mapping) and "of" in own:
            of = own["of"] if isinstance(own["of"], list) else [own["of"]]
            members = [_class_options(base, spec, f"{name}.of", path) for spec in of]
            rest[name] = {**own, "of": members}
    encoders = options.get("encoders")
    for side in encoders.values() if isinstance(encoders, Mapping) else ():
        family = side.get("family") if isinstance(side, Mapping) else None
        if not isinstance(family, str | None):
            raise CheckpointError(f"A family in {path!r} is damaged: {family!r:.60}.")
        if family is not None:
            find_class(Encoder, family, path)
    # names and values of a user's table may look like anything, and no parser reads them
    if not fits(names := rest.pop("class_names", None), list[str] | None):
        raise CheckpointError(f"The class_names of {path!r} are damaged: {names!r:.60}.")
    if isinstance(prepared := rest.get("preprocessing"), Mapping):
        try:
            column_preprocessing(prepared)
        except (ConfigError, LookupError, TypeError, AttributeError) as error:
            problem = f"{path!r} is damaged, or of another version: {first_line(error)}"
            raise CheckpointError(f"{problem}.") from error
        rest["preprocessing"] = {**prepared, "columns": None}
    refuse_classes(rest, path)
    shapes = (getattr(tensor, "shape", ()) for tensor in content["state_dict"].values())
    most = max([_MANY, *chain.from_iterable(shapes)])
    for name, number in integers({key: options.get(key) for key in ("num_classes", "method")}):
        if number > most:
            raise CheckpointError(
                f"The {name} of {path!r} is {number:,}, but no axis of its weights has more than "
                f"{most:,} entries: epic_pl did not write this. Do not use the file."
            )


def _class_options(base: type, spec: Any, name: str, path: str | IO[bytes]) -> Any:
    """Options of a class that a file may name.

    Raises:
        CheckpointError: if they are not written as a class with its options.
        UntrustedError: if nobody has imported the class.
        ConfigError: if there is no such class.
    """
    known = isinstance(spec, Mapping) and spec.keys() == {"class_path", "init_args"}
    if not known or not isinstance(spec["class_path"], str):
        raise CheckpointError(
            f"The {name} in {path!r} is of another version: use the one that wrote it."
        )
    find_class(base, spec["class_path"], path)
    return spec["init_args"]


def refuse_classes(options: Any, path: str | IO[bytes]) -> None:
    """Refuse options that name a class at any depth, since building it would run code.

    Strings are also checked, since the command line's parser reads them as YAML.

    Raises:
        CheckpointError: naming the class, or if options are nested too deeply to be checked.
    """
    from_text = isinstance(options, str)
    try:
        if from_text:
            # this loader ignores tags, so it finds every mapping that the parser could find
            content = yaml.load(options, yaml.BaseLoader)
            options = None if isinstance(content, str) else content
        require_flat(options, MOST_OPTIONS)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # no class of error tells an anchor in itself from text that is not YAML
        if isinstance(error, yaml.YAMLError) and "recursive" not in str(error):
            return
        raise CheckpointError(
            f"epic_pl did not write the hyperparameters of {path!r}: {error}. Do not use the file."
        ) from error
    if isinstance(options, Mapping):
        for key in options:
            parts = str(key).split(".")
            # a text such as "Dr. No: 1962" is read as a mapping, too
            if not {*parts}.isdisjoint(_SPECIAL_KEYS) or (parts[1:] and not from_text):
                raise CheckpointError(
                    f"The hyperparameters of {path!r} name a class to build ({key}: "
                    f"{options[key]!r}), which would run code: do not use it."
                )
        options = list(options.values())
    if isinstance(options, list | tuple):
        for option in options:
            refuse_classes(option, path)
    elif not isinstance(options, int | float | None):
        raise CheckpointError(
            f"The hyperparameters of {path!r} hold a {type(options).__name__}, which is no option."
        )
