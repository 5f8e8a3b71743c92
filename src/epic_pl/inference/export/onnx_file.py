"""Writing of ONNX files, also with encoders in 8 bits, and comparison of their scores."""

import logging
import warnings
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

from epic_pl.data import ImageTextDataModule
from epic_pl.inference.description import INPUTS
from epic_pl.inference.exported import ONNX, ONNX_INT8, load_program, run_batch
from epic_pl.module import EPICModule
from epic_pl.module.metrics import decided_metrics
from epic_pl.utils.errors import ConfigError, counted, needs_extra, raised_as

_SCOPES = "pkg.torch.onnx.name_scopes"
_ENCODERS = ("'model.image_tower.encoder'", "'model.text_tower.encoder'")


def require_onnx() -> None:
    """Check that ONNX files can be written and run.

    Raises:
        ConfigError: if the extra ``onnx`` is not installed.
    """
    with needs_extra("onnx", "epic-pl export"):
        import onnxruntime  # noqa: F401 needed later to verify the file
        import onnxscript  # noqa: F401


def write_onnx(program: ExportedProgram, path: Path) -> None:
    """Write an ONNX file; weights of more than 2 GB go to a file beside it.

    Raises:
        ConfigError: if an operation cannot be translated.
    """
    way_out = "Use the checkpoint instead, with EPICModule.load_from_checkpoint."
    names = [*INPUTS, "columns"][: len(program.graph_signature.user_inputs)]
    problem = "This model cannot be translated to ONNX"
    with raised_as(ConfigError, problem, way_out), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are about the translator's own code
        translated = torch.onnx.export(
            program, input_names=names, output_names=["probabilities"], verbose=False
        )
    assert translated is not None
    translated.save(str(path))


def write_int8(source: Path, target: Path) -> None:
    """Write a copy of an ONNX file with the encoders' weights in 8 bits, quantised by rows."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(source)
    # onnxruntime before 1.32 transposes weights, but not their recorded shapes
    del model.graph.value_info[:]
    names = []
    for node in model.graph.node:
        scopes = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES), "")
        if any(encoder in scopes for encoder in _ENCODERS):
            names.append(node.name)
    logging.disable(logging.WARNING)  # it advises steps that the translation has already done
    try:
        quantize_dynamic(
            model,
            target,
            op_types_to_quantize=["MatMul", "Gemm", "Gather"],
            nodes_to_quantize=names,
            per_channel=True,
            reduce_range=True,  # without VNNI, sums of full 8-bit products overflow
            weight_type=QuantType.QInt8,
        )
    finally:
        logging.disable(logging.NOTSET)


def compare_scores(folder: Path, module: EPICModule, data: ImageTextDataModule) -> str:
    """Lines of text with the validation scores of both ONNX models of a folder."""
    data.prepare_data()
    data.setup("validate")
    models = {name: load_program(folder / name) for name in (ONNX, ONNX_INT8)}
    postprocessor = module.postprocessor.on_cpu()
    labels: list[Tensor] = []
    given: dict[str, list[Tensor]] = {name: [] for name in models}
    for batch in data.val_dataloader():
        labels.append(batch["labels"])
        for name, run in models.items():
            given[name].append(run_batch(run, batch))
    truth = torch.cat(labels)
    lines = [f"on {counted(len(truth), 'rows')} of the validation split:"]
    for name, parts in given.items():
        size = (folder / name).stat().st_size / 1e6
        values = decided_metrics(postprocessor, torch.cat(parts), truth).items()
        listed = ", ".join(f"{key} {value:.4f}" for key, value in sorted(values))
        lines.append(f"  {name}  {size:,.1f} MB: {listed}")
    return "\n".join(lines)
