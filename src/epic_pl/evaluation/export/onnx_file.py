"""A program as an ONNX file, and its frozen encoders in 8 bits."""

import logging
import warnings
from pathlib import Path

from torch.export import ExportedProgram

from epic_pl.errors import ConfigError, first_line
from epic_pl.inference.exported import INPUTS

OUTPUT = "probabilities"
_SCOPES = "pkg.torch.onnx.name_scopes"
_ENCODERS = ("'model.image_tower.encoder'", "'model.text_tower.encoder'")


def write_onnx(program: ExportedProgram, path: Path) -> None:
    """Write an ONNX file; weights of more than 2 GB go to a file beside it.

    Raises:
        ConfigError: the extra ``onnx`` is not installed, or an operation cannot be translated.
    """
    import torch

    try:
        import onnxruntime  # noqa: F401 what is written must be compared, too
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"--format onnx needs {error.name}: pip install 'epic_pl[onnx]'."
        ) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the translation's own parts
            made = torch.onnx.export(
                program, input_names=list(INPUTS), output_names=[OUTPUT], verbose=False
            )
    except Exception as error:  # translating may fail in any way on a custom model
        raise ConfigError(
            f"This model cannot be translated to ONNX: {first_line(error)}. Leave out "
            "--format onnx."
        ) from error
    assert made is not None
    made.save(str(path))


def write_int8(source: Path, target: Path) -> None:
    """Write an ONNX file again with the encoders' weights in 8 bits, quantised row by row."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(source)
    # onnxruntime before 1.32 transposes weights, but not the shapes that are noted of them
    del model.graph.value_info[:]
    names = []
    for node in model.graph.node:
        scopes = next((each.value for each in node.metadata_props if each.key == _SCOPES), "")
        if any(encoder in scopes for encoder in _ENCODERS):
            names.append(node.name)
    logging.disable(logging.WARNING)  # advice on steps that the translation has done
    try:
        quantize_dynamic(
            model,
            target,
            op_types_to_quantize=["MatMul", "Gemm", "Gather"],
            nodes_to_quantize=names,
            per_channel=True,
            weight_type=QuantType.QInt8,
        )
    finally:
        logging.disable(logging.NOTSET)
