"""Saving of trained models to a folder of safetensors and JSON, and sharing on a hub."""

import hashlib
import re
from copy import deepcopy
from pathlib import Path
from typing import Any, get_args

from huggingface_hub import HfApi, snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load, save

from epic_pl.inference.description import DESCRIPTION
from epic_pl.inference.model_card import CARD
from epic_pl.module import EPICModule
from epic_pl.module.callbacks.checkpoints import find_checkpoint
from epic_pl.module.checkpoint import CHECKPOINT_KEY, adapter_state, require_info
from epic_pl.module.checkpoint_io import check_content, read_checkpoint
from epic_pl.utils.assets.encoders import cached_commit, repository
from epic_pl.utils.errors import AssetError, CheckpointError, DataError, raised_as
from epic_pl.utils.files import read_json, write_bytes, write_json
from epic_pl.utils.plugins import find_class
from epic_pl.utils.types import Modality
from epic_pl.utils.untrusted import require_regular
from epic_pl.utils.version import __version__

CONFIG, WEIGHTS = "config.json", "model.safetensors"
_HASH = "weights_sha256"
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


def write_model(module: EPICModule, folder: Path) -> None:
    """Write trained weights, their hash, the options, and the identity of the encoders.

    Encoders without a revision are pinned to the commit in this machine's cache.
    """
    module.require_options()
    options: dict[str, Any] = deepcopy(dict(module.hparams))
    info: dict[str, Any] = deepcopy(dict(module.checkpoint_info()))
    for side in get_args(Modality):
        encoder = options["encoders"][side]
        source = repository(encoder["name"], side)
        if source and "@" not in encoder["name"]:
            encoder["revision"] = encoder["revision"] or cached_commit(source)
        info[f"{side}_encoder"]["revision"] = encoder["revision"]
    state = adapter_state(module, module.state_dict())
    # save_file would make a file that other users cannot read
    weights = save({name: tensor.cpu().contiguous() for name, tensor in state.items()})
    content = {
        "library_name": "epic_pl",
        "version": __version__,
        _HASH: hashlib.sha256(weights).hexdigest(),
        "options": options,
        CHECKPOINT_KEY: info,
    }
    # after a kill between the two writes the hash in the old description does not match
    write_bytes(folder / WEIGHTS, weights)
    write_json(folder / CONFIG, content)


def read_model(folder: Path) -> dict[str, Any]:
    """Read what :func:`write_model` wrote, as the content of a checkpoint.

    Raises:
        CheckpointError: if the folder is damaged or of another version, or its two files belong to
            different models.
    """
    path, weights = folder / CONFIG, folder / WEIGHTS
    try:
        content = read_json(path)
    except DataError as error:
        raise CheckpointError(str(error)) from error
    if (library := content.get("library_name")) != "epic_pl":
        raise CheckpointError(
            f"{path} describes a model of {library!r:.40}, not of epic_pl: give another folder."
        )
    with raised_as(CheckpointError, f"{weights} cannot be read", "", OSError, SafetensorError):
        require_regular(weights)
        written = weights.read_bytes()
        if content.get(_HASH) != hashlib.sha256(written).hexdigest():
            raise CheckpointError(
                f"{weights} is not what {path} describes ({_HASH} differs). Save or fetch it again."
            )
        state = load(written)
    options, info = content.get("options"), content.get(CHECKPOINT_KEY)
    found = {"hyper_parameters": options, "state_dict": state, CHECKPOINT_KEY: info}
    check_content(found, str(path))
    return found


def find_model(
    path: str | Path, revision: str | None = None, token: str | None = None, offline: bool = False
) -> Path:
    """Find the checkpoint or folder of a model; arguments as in ``Classifier.load``.

    Raises:
        CheckpointError: if there is none.
        AssetError: if it cannot be fetched.
    """
    place = Path(path)
    if not place.exists() and _HUB_NAME.fullmatch(str(path)):
        return _fetch_model(str(path), revision, token, offline)
    saved = any((place / name).is_file() for name in (WEIGHTS, DESCRIPTION))
    return place if saved else find_checkpoint(place)


def load_trained(
    place: Path, image_encoder: str | None = None, text_encoder: str | None = None
) -> EPICModule:
    """Load what :func:`find_model` found, on the CPU, in evaluation mode.

    Args:
        place: a checkpoint, or the folder of a saved model.
        image_encoder: current name of the image encoder if it has moved; None is the model's.
        text_encoder: likewise for the text encoder.

    Raises:
        CheckpointError: if it is damaged or an exported model, or an encoder differs.
    """
    if (place / DESCRIPTION).is_file() and not (place / WEIGHTS).is_file():
        raise CheckpointError(f"{place} is an exported model: give its run or checkpoint.")
    source = place if place.is_file() else place / CONFIG
    checkpoint = read_checkpoint(str(place)) if place.is_file() else read_model(place)
    kind = find_class(EPICModule, require_info(checkpoint, source)["module"], source)
    try:
        encoders = checkpoint["hyper_parameters"]["encoders"]
        for side, name in (("image", image_encoder), ("text", text_encoder)):
            encoders[side]["name"] = name or encoders[side]["name"]
    except (LookupError, TypeError) as error:
        raise CheckpointError(f"{source} is damaged: its options name no encoders.") from error
    return kind.from_content(checkpoint, source).eval()


def _fetch_model(name: str, revision: str | None, token: str | None, offline: bool) -> Path:
    """Download weights and config of a hub's model to a local folder, and return it.

    Raises:
        AssetError: if it cannot be downloaded or, with ``offline``, is not on this machine.
    """
    repo, _, pinned = name.partition("@")
    problem = f"There is no folder {name!r}, and no such model can be fetched"
    way_out = "Check the name and the network, or give the folder of a run."
    commit, files = revision or pinned or None, [CONFIG, WEIGHTS]
    with raised_as(AssetError, problem, way_out):
        folder = snapshot_download(
            repo, revision=commit, allow_patterns=files, local_files_only=offline, token=token
        )
    return Path(folder)


def push_model(
    folder: Path, name: str, revision: str | None, private: bool | None, token: str | None
) -> str:
    """Upload a saved folder, but no card if the repository has one; return the commit's URL."""
    api = HfApi(token=token)
    name = api.create_repo(name, private=private, exist_ok=True).repo_id
    if revision is not None:
        api.create_branch(name, branch=revision, exist_ok=True)
    kept = [CARD] if api.file_exists(name, CARD, revision=revision) else None
    options: Any = {"ignore_patterns": kept, "commit_message": "Upload a model of epic_pl"}
    uploaded = api.upload_folder(repo_id=name, folder_path=folder, revision=revision, **options)
    return str(uploaded.commit_url)
