"""An ONNX model that takes what exported ones take, and that no module was translated to."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from epic_pl.inference.description import model_inputs


def write_onnx(path: Path, side: int) -> None:
    """Write a model of three probabilities, which depend on each pixel and on the tokens.

    Padding does not matter if its token is 0.
    """
    types = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "bool": TensorProto.BOOL}
    inputs = [
        helper.make_tensor_value_info(name, types[about["dtype"]], about["shape"])
        for name, about in model_inputs(side, side).items()
    ]
    weights = np.random.default_rng(0).normal(0, 1 / side, (3 * side**2, 3)).astype(np.float32)
    constants = {
        "weights": weights,
        "rates": np.array([0.1, 0.2, 0.3], np.float32),
        "axes": np.array([1]),
    }
    nodes = [
        helper.make_node("Flatten", ["pixel_values"], ["pixels"]),
        helper.make_node("MatMul", ["pixels", "weights"], ["seen"]),
        helper.make_node("ReduceSum", ["input_ids", "axes"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["tokens"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["tokens", "rates"], ["angles"]),
        helper.make_node("Sin", ["angles"], ["read"]),
        helper.make_node("Add", ["seen", "read"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"]),
    ]
    output = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["B", 3])
    named = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "graph", inputs, [output], named)
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
