"""Tiny models of many architectures in folders; norms and biases are shifted as if trained."""

import json
from pathlib import Path

import timm
import torch
import transformers as hf
from safetensors.torch import save_file

VIT = {"embed_dim": 32, "depth": 3, "num_heads": 4, "img_size": 32, "patch_size": 8}
VOCABULARY = 60
TEXT = {"vocab_size": VOCABULARY, "max_position_embeddings": 40}


def sizes(**options):
    return {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        **options,
    }


TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
ROBERTA = sizes(**TEXT, pad_token_id=1, type_vocab_size=1)
IMAGE = sizes(image_size=32, patch_size=8)
GROUPED = sizes(**TEXT, **TOKENS, head_dim=8, num_key_value_heads=2)
WINDOWS = {
    "sliding_window": 4,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}


def two_towers(kind: str, **options):
    text = sizes(**TEXT, **TOKENS, **options)
    config = getattr(hf, f"{kind}Config")(text_config=text, vision_config={**IMAGE, **options})
    return getattr(hf, f"{kind}Model"), config


# name: the library's class and config
TEXTS = {
    "BERT": lambda: (hf.BertModel, hf.BertConfig(**sizes(**TEXT))),
    "RoBERTa": lambda: (hf.RobertaModel, hf.RobertaConfig(**ROBERTA)),
    "XLM-R": lambda: (hf.XLMRobertaModel, hf.XLMRobertaConfig(**ROBERTA)),
    "CamemBERT": lambda: (hf.CamembertModel, hf.CamembertConfig(**ROBERTA)),
    "ELECTRA": lambda: (
        hf.ElectraModel,
        hf.ElectraConfig(**sizes(**TEXT, embedding_size=16)),
    ),
    "DistilBERT": lambda: (
        hf.DistilBertModel,
        hf.DistilBertConfig(**TEXT, dim=32, n_layers=3, n_heads=4, hidden_dim=48),
    ),
    "NomicBERT": lambda: (hf.NomicBertModel, hf.NomicBertConfig(**sizes(**TEXT))),
    "Jina v3": lambda: (
        hf.JinaEmbeddingsV3Model,
        hf.JinaEmbeddingsV3Config(**sizes(**TEXT, pad_token_id=1)),
    ),
    "EuroBERT": lambda: (hf.EuroBertModel, hf.EuroBertConfig(**GROUPED, mask_token_id=3)),
    "ModernBERT": lambda: (
        hf.ModernBertModel,
        hf.ModernBertConfig(
            **sizes(**TEXT, **TOKENS),
            cls_token_id=1,
            sep_token_id=2,
            local_attention=4,
            global_attn_every_n_layers=3,
        ),
    ),
    "Gemma 3, bidirectional": lambda: (
        hf.Gemma3TextModel,
        hf.Gemma3TextConfig(
            **GROUPED, **WINDOWS, use_bidirectional_attention=True, query_pre_attn_scalar=16
        ),
    ),
    "Qwen3": lambda: (hf.Qwen3Model, hf.Qwen3Config(**GROUPED)),
    "Qwen3, windows": lambda: (
        hf.Qwen3Model,
        hf.Qwen3Config(**GROUPED, **WINDOWS, use_sliding_window=True),
    ),
    "CLIP text": lambda: two_towers("CLIP", projection_dim=16),
    "MetaCLIP 2 text": lambda: two_towers("MetaClip2", projection_dim=16),
    "SigLIP text": lambda: two_towers("Siglip"),
    "SigLIP 2 text": lambda: (
        hf.Siglip2Model,
        hf.Siglip2Config(
            text_config=sizes(**TEXT, **TOKENS), vision_config=sizes(num_patches=16, patch_size=8)
        ),
    ),
}
IMAGES = {
    "CLIP": lambda: two_towers("CLIP", projection_dim=16),
    "MetaCLIP 2": lambda: two_towers("MetaClip2", projection_dim=16),
    "SigLIP": lambda: two_towers("Siglip"),
    "SigLIP, image alone": lambda: (hf.SiglipVisionModel, hf.SiglipVisionConfig(**IMAGE)),
    "DINOv2": lambda: (hf.Dinov2Model, hf.Dinov2Config(**IMAGE, mlp_ratio=2)),
    "DINOv2, registers": lambda: (
        hf.Dinov2WithRegistersModel,
        hf.Dinov2WithRegistersConfig(**IMAGE, mlp_ratio=2),
    ),
    "DINOv3": lambda: (hf.DINOv3ViTModel, hf.DINOv3ViTConfig(**IMAGE, num_register_tokens=4)),
    "ViT": lambda: (hf.ViTModel, hf.ViTConfig(**IMAGE)),
    "AIMv2": lambda: (hf.Aimv2VisionModel, hf.Aimv2VisionConfig(**IMAGE)),
    "AIMv2, native": lambda: (
        hf.Aimv2VisionModel,
        hf.Aimv2VisionConfig(**IMAGE, is_native=True, use_head=False),
    ),
}
# name: timm's name and options
VITS = {
    "AugReg": ("vit_tiny_patch16_224", {}),
    "DeiT-3": ("deit3_small_patch16_224", {}),
    "DINOv2": ("vit_small_patch14_dinov2", {}),
    "DINOv2, registers": ("vit_small_patch14_reg4_dinov2", {}),
    "SigLIP": ("vit_base_patch16_siglip_224", {}),
    "SigLIP, mean": ("vit_base_patch16_siglip_gap_224", {}),
    "OpenCLIP": ("vit_base_patch16_clip_224", {}),
    "CLIP": ("vit_base_patch16_clip_quickgelu_224", {}),
    "AIMv2": ("aimv2_large_patch14_224", {}),
}
EVAS = {
    "EVA": ("eva_giant_patch14_224", {}),
    "EVA-02": ("eva02_base_patch14_224", {}),
    "EVA-02 CLIP": ("eva02_base_patch16_clip_224", {}),
    "EVA-02 E": ("eva02_enormous_patch14_clip_224", {}),
    "DINOv3": ("vit_small_patch16_dinov3", {}),
    "DINOv3, biases": ("vit_small_patch16_dinov3_qkvb", {}),
    "DINOv3 H+": ("vit_huge_plus_patch16_dinov3", {}),
    "Perception Encoder": ("vit_pe_core_tiny_patch16_384", {}),
    "Perception Encoder, spatial": ("vit_pe_spatial_base_patch16_512", {}),
    "Perception Encoder, language": ("vit_pe_lang_large_patch14_448", {}),
    "RoPE": ("vit_base_patch16_rope_224", {}),
    "RoPE, mixed": ("vit_base_patch16_rope_mixed_224", {}),
    "RoPE, mean": ("vit_betwixt_patch16_rope_reg4_gap_256", {}),
}

# models that run as a whole
FEATURE_TEXTS = {
    "MPNet": lambda: (hf.MPNetModel, hf.MPNetConfig(**sizes(**TEXT))),
    "DeBERTa": lambda: (
        hf.DebertaV2Model,
        hf.DebertaV2Config(**sizes(**TEXT, relative_attention=True, position_buckets=8)),
    ),
    "ALBERT": lambda: (hf.AlbertModel, hf.AlbertConfig(**sizes(**TEXT, embedding_size=16))),
    "T5": lambda: (
        hf.T5EncoderModel,
        hf.T5Config(vocab_size=60, d_model=32, d_kv=8, d_ff=48, num_layers=3, num_heads=4),
    ),
    "GPT-2": lambda: (
        hf.GPT2Model,
        hf.GPT2Config(vocab_size=60, n_embd=32, n_layer=3, n_head=4, n_positions=40),
    ),
}
FEATURE_IMAGES = {
    "ConvNeXt V2": lambda: (
        hf.ConvNextV2Model,
        hf.ConvNextV2Config(hidden_sizes=[8, 16, 24, 32], depths=[1] * 4, image_size=64),
    ),
    "BEiT": lambda: (hf.BeitModel, hf.BeitConfig(**IMAGE, use_relative_position_bias=True)),
}
STAGES = {"depths": (1, 1, 1, 1), "img_size": None, "depth": None, "patch_size": None}
FEATURE_TIMMS = {
    "ConvNeXt": ("convnext_tiny", {**STAGES, "dims": (8, 16, 24, 32)}),
    "Swin": (
        "swin_tiny_patch4_window7_224",
        {
            **STAGES,
            "embed_dim": 8,
            "num_heads": (1, 2, 2, 4),
            "img_size": 64,
            "window_size": 4,
        },
    ),
    "FastViT": (
        "fastvit_t8",
        {"layers": (1, 1, 1, 1), "embed_dims": (24, 24, 48, 48), "img_size": None, "depth": None},
    ),
    "MobileNetV4": ("mobilenetv4_conv_small_035", dict.fromkeys(VIT)),
    "ResNet": ("resnet18", dict.fromkeys(VIT)),
    "BEiT": ("beit_base_patch16_224", {}),
}


def shifted(model: torch.nn.Module) -> torch.nn.Module:
    """The model in evaluation mode, every weight moved a little."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def write_hf(folder: Path, model_class, config) -> str:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        shifted(model_class(config)).save_pretrained(folder)
    return str(folder)


def write_timm(folder: Path, name: str, options: dict) -> str:
    if any(option in options for option in ("dims", "embed_dims", "depths")):
        arguments = options
    else:
        arguments = {**VIT, **options}
    arguments = {key: value for key, value in arguments.items() if value is not None}
    arguments["num_classes"] = 0
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = shifted(timm.create_model(name, **arguments))
    weights = {key: value.contiguous().clone() for key, value in model.state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors")
    size = arguments.get("img_size", 64)
    kept = {"mean", "std", "interpolation", "first_conv", "classifier"}
    known = {key: value for key, value in model.default_cfg.items() if key in kept}
    config = {
        "architecture": name,
        "num_features": model.num_features,
        "model_args": arguments,
        "pretrained_cfg": {**known, "input_size": [3, size, size], "num_classes": 0},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)
