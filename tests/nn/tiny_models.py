"""Small encoders with lively random weights, and batches for them."""

import pytest
import torch
from timm.models import VisionTransformer
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    BertConfig,
    BertModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModel,
)

from epic_pl.nn import EPIC, HeadConfig, Pair, methods
from epic_pl.nn.encoders import (
    TimmViTEncoder,
    TransformersEncoder,
    build_image_encoder,
    build_text_encoder,
)
from epic_pl.nn.heads.classification import ModalityExperts
from epic_pl.nn.heads.inputs import Standardization
from epic_pl.nn.heads.trees import BoostedTrees, Components
from epic_pl.nn.methods import Ensemble
from epic_pl.utils.types import Batch

VOCABULARY = 40
EOS = 39
TEXT_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 24,
    "num_attention_heads": 3,
    "intermediate_size": 48,
    "max_position_embeddings": 24,
    "attn_implementation": "sdpa",
}


def scramble(module: nn.Module, seed: int = 0) -> nn.Module:
    """Weights as if trained: biases of zero and gains of one would hide errors."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise * parameter.shape[-1] ** -0.5)
            elif parameter.ndim == 1:  # a norm's gain, or a bias
                parameter.copy_(name.endswith("weight") + 0.1 * noise)
    return module


def vit(depth: int = 3, **options) -> VisionTransformer:
    sizes = {"img_size": 16, "patch_size": 8, "embed_dim": 32, "num_heads": 4, "mlp_ratio": 2}
    return VisionTransformer(**{**sizes, "depth": depth, "num_classes": 0, **options}).eval()


def image_encoder(depth: int = 3, pooling: str = "auto", **options) -> TimmViTEncoder:
    return TimmViTEncoder(scramble(vit(depth, **options), seed=1), pooling)


def bert(depth: int = 3, **options) -> BertModel:
    config = BertConfig(num_hidden_layers=depth, **TEXT_SIZES, **options)
    return BertModel(config, add_pooling_layer=False).eval()


def text_encoder(depth: int = 3, pooling: str = "auto", **options) -> TransformersEncoder:
    return TransformersEncoder(scramble(bert(depth, **options), seed=2), pooling)


def hf_text(model_type: str) -> nn.Module:
    """Any BERT-like architecture of the library, tiny."""
    # ELECTRA alone has a size of its embeddings
    config = AutoConfig.for_model(model_type, num_hidden_layers=3, embedding_size=16, **TEXT_SIZES)
    return scramble(AutoModel.from_config(config), seed=3).eval()


def clip_vision() -> CLIPVisionModel:
    config = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=16,
        patch_size=8,
        attn_implementation="sdpa",
    )
    return scramble(CLIPVisionModel(config), seed=4).eval()


def clip_text() -> CLIPTextModel:
    config = CLIPTextConfig(num_hidden_layers=3, pad_token_id=1, eos_token_id=EOS, **TEXT_SIZES)
    return scramble(CLIPTextModel(config), seed=5).eval()


def clip_image_encoder(pooling="auto") -> TransformersEncoder:
    model = clip_vision()
    return TransformersEncoder(getattr(model, "vision_model", model), pooling)


def clip_text_encoder(pooling="auto") -> TransformersEncoder:
    model = clip_text()
    return TransformersEncoder(getattr(model, "text_model", model), pooling)


def randomise(model: nn.Module, seed: int = 7) -> nn.Module:
    """All that is not an encoder with random weights and statistics, in float64."""
    generator = torch.Generator().manual_seed(seed)
    for name, child in model.named_children():
        if "tower" not in name:
            scramble(child, seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    for part in model.modules():
        if isinstance(part, Standardization):
            part.mean.copy_(torch.randn(part.mean.shape, generator=generator))
            part.variance.copy_(0.5 + torch.rand(part.mean.shape, generator=generator))
            part.count.fill_(100)
        if isinstance(part, ModalityExperts):
            part.prior.copy_(torch.randn(part.prior.shape, generator=generator))
        if isinstance(part, Components):
            part.directions.copy_(torch.randn(part.directions.shape, generator=generator))
        if isinstance(part, BoostedTrees):
            part.inputs.random_(part.columns, part.columns + 32, generator=generator)
            part.leaves.copy_(torch.randn(part.leaves.shape, generator=generator))
    return model.double().eval()


METHODS = {name: getattr(methods, name) for name in methods.__all__ if name != "Method"}
MEMBERS = 2
SMALL = {"num_prompts": 2, "num_parts": 4, "hub_width": 4, "prompt_attention": "joint"}


def make(name="EPIC", image=None, text=None, *, head=None, modality_dropout=0.0, **options):
    """A method in float64 with random weights everywhere, so that nothing hides behind a zero."""
    torch.manual_seed(0)
    encoders = Pair(image or image_encoder(), text or text_encoder())
    if issubclass(METHODS[name], EPIC):
        options = SMALL | options
    else:
        options.pop("prompt_attention", None)
    if issubclass(METHODS[name], Ensemble):
        options = {"of": EPIC(num_prompts=2, hub_width=4), "members": MEMBERS} | options
    return randomise(METHODS[name](**options).build(encoders, 5, head or PLAIN, modality_dropout))


def base_method(name="EPIC", text="google-bert/bert-base-uncased", head=None, **options):
    """A method on real sizes with 101 classes, as shapes without numbers."""
    with torch.device("meta"):
        image = build_image_encoder("vit_base_patch16_224.augreg_in21k", pretrained=False)
        text = build_text_encoder(text, pretrained=False)
        image._fingerprint = text._fingerprint = "no numbers to hash"
        return METHODS[name](**options).build(Pair(image, text), 101, head or HeadConfig())


def trained(model) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


def count_trained(model) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def logits(model, given: Batch) -> Tensor:
    with torch.no_grad():
        return model(given).logits


def token_ids(lengths: list[int], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Ids padded on the right with ordinary tokens' ids, end-of-text last, and their mask."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, EOS, (len(lengths), max(lengths)), generator=generator)
    mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    ids[torch.arange(len(lengths)), torch.tensor(lengths) - 1] = EOS
    return ids, mask.long()


def batch(
    lengths: list[int], image_present=None, text_present=None, seed: int = 0, dtype=torch.float64
) -> Batch:
    """A batch; ``*_present`` are lists of 0 and 1, or None to leave the key out."""
    generator = torch.Generator().manual_seed(seed)
    ids, mask = token_ids(lengths, seed)
    images = torch.randn(len(lengths), 3, 16, 16, generator=generator, dtype=torch.float64)
    made = Batch(pixel_values=images.to(dtype), input_ids=ids, attention_mask=mask)
    if image_present is not None:
        made["image_present"] = torch.tensor(image_present, dtype=torch.bool)
    if text_present is not None:
        made["text_present"] = torch.tensor(text_present, dtype=torch.bool)
    return made


def sample(whole: Batch, index: int) -> Batch:
    """One row of a batch, its padding cut off."""
    length = int(whole["attention_mask"][index].sum())
    row = {key: value[index : index + 1] for key, value in whole.items()}
    return Batch(
        **{**row, **{key: row[key][:, :length] for key in ("input_ids", "attention_mask")}}
    )


def cached(model, whole: Batch, level: str) -> Batch:
    """The batch with a store's features in place of its inputs."""
    mask = whole["attention_mask"].bool()
    features = {
        "image_features": model.image_tower.features(whole["pixel_values"], None, level),
        "text_features": model.text_tower.features(whole["input_ids"], mask, level),
    }
    for side in ("image", "text"):  # a store has zeros for missing modalities
        here = whole.get(f"{side}_present", torch.ones(len(mask), dtype=torch.bool))
        stored = features[f"{side}_features"]
        for name, value in stored.items():
            stored[name] = value * here.view(-1, *[1] * (value.ndim - 1))
    return {k: v for k, v in whole.items() if k not in ("pixel_values", "input_ids")} | features


def over(name: str, cases: dict):
    """Parametrises by a dictionary of named cases."""
    return pytest.mark.parametrize(name, cases.values(), ids=cases.keys())


PAPER = {"hub": "parameter_free", "generation": "linear", "first_prompt": "from_text"}
PLAIN = HeadConfig(boundary=False, similarity=False, network="none")
ALL_PARTS = HeadConfig(network="squeezed")
ENCODERS = {
    "ViT cls, BERT cls": (image_encoder, text_encoder),
    "ViT mean, BERT mean": (
        lambda: image_encoder(pooling="mean"),
        lambda: text_encoder(pooling="mean"),
    ),
    "CLIP": (clip_image_encoder, clip_text_encoder),
    "CLIP mean": (lambda: clip_image_encoder("mean"), lambda: clip_text_encoder("mean")),
    "ViT mean, CLIP text": (lambda: image_encoder(pooling="mean"), clip_text_encoder),
}
PRESENCE = {
    "all present": (None, None),
    "mixed": ([1, 0, 1], [0, 1, 1]),
    "no image": ([0, 0, 0], [1, 1, 1]),
    "no text": ([1, 1, 1], [0, 0, 0]),
    "one key only": (None, [1, 0, 0]),
    "nothing in one sample": ([0, 1, 1], [0, 1, 1]),
}
every_encoder = over("encoders", ENCODERS)
either_attention = pytest.mark.parametrize("attention", ["joint", "read_only"])
heads = over("head", {"plain": PLAIN, "all parts": ALL_PARTS})
