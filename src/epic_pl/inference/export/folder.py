"""The folder of an exported model, which is written under another name, verified, and moved.

Shape legend: B batch, S text tokens, H, W image height and width in pixels.
"""

import shutil
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from epic_pl.data.preprocessing import Preprocessing
from epic_pl.data.pretrained import load_tokenizer
from epic_pl.inference.description import DESCRIPTION, TOKENIZER, Description, model_inputs
from epic_pl.inference.export.onnx_file import write_int8, write_onnx
from epic_pl.inference.export.program import Probabilities, export_program, random_inputs
from epic_pl.inference.exported import ONNX, ONNX_INT8, Program, load_program
from epic_pl.module import EPICModule
from epic_pl.utils.errors import AssetError, ConfigError, EncoderError
from epic_pl.utils.files import folder_beside, write_json
from epic_pl.utils.version import __version__

PREDICT = "predict.py"
IMPORTED = {name: "data" for name in ("cells.py", "clean_text.py", "decoding.py")}
IMPORTED["untrusted.py"] = "utils"
"""Files that it imports, and their folders in this package."""
TOLERANCE = 1e-4
"""Largest accepted difference between a probability of the exported model and the module's."""
# B and S of the batches that verify the model; the traced inputs have other sizes
_COMPARED = ((3, 8), (1, 2), (4, 3), (56, 8))


def check_output(folder: Path, overwrite: bool) -> None:
    """Check that a model may be written to ``folder``, before anything is loaded.

    Raises:
        ConfigError: if it is a file, or not empty and ``overwrite`` is False.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--output {folder} is a file: name a folder, which need not exist.")
    if not overwrite and folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"--output {folder} is not empty: give another folder, or --overwrite.")


def find_tokenizer(module: EPICModule) -> Any | None:
    """The tokenizer of the text encoder; None if the user's own pipeline makes the tokens.

    Raises:
        EpicError: if a DataModule of this package needs a tokenizer, but it cannot be loaded.
    """
    if Preprocessing.find(module.hparams.get("preprocessing")):
        return module.processor.tokenizer
    encoder = module.checkpoint_info()["text_encoder"]
    try:
        return load_tokenizer(encoder["name"], encoder["revision"])
    except (AssetError, EncoderError) as error:
        print(f"exported without a tokenizer: {error}")
        return None


def describe(module: EPICModule, tokenizer: Any | None) -> Description:
    """The description of a module for users of its export.

    Raises:
        ConfigError: if a value of the module cannot be described.
    """
    info, thresholds = module.checkpoint_info(), module.postprocessor.thresholds
    height, width = module.model.image_encoder.example(1, 1, torch.Generator()).shape[-2:]
    saved, described = module.hparams.get("preprocessing"), None
    prepared = Preprocessing.find(saved)
    if prepared is not None:
        text = asdict(prepared.text)
        if tokenizer is not None:
            text["max_tokens"] = min(text["max_tokens"], tokenizer.model_max_length)
            text["pad_token"] = tokenizer.pad_token
            text["truncation_side"] = tokenizer.truncation_side
        described = {"image": prepared.image.to_dict(), "text": text}
        described |= {"columns": asdict(prepared.columns)} if prepared.columns.names else {}
    return Description(
        format_version=1,
        task=module.task,
        class_names=list(module.class_names),
        thresholds=None if thresholds is None else thresholds.tolist(),
        temperature=float(module.postprocessor.temperature),
        method=module.method_name,
        never_missing=module.model.head.never_missing,
        inputs=model_inputs(height, width, module.model.stacks[0].head.columns),
        preprocessing=described,
        tokenizer=None if tokenizer is None else TOKENIZER,
        image_encoder=info["image_encoder"],
        text_encoder=info["text_encoder"],
        versions={"epic_pl": __version__, "torch": str(torch.__version__)},
        own_preprocessing=saved if prepared is None else None,
    )


class Written(NamedTuple):
    """What was verified: the largest differences of probabilities.

    ``difference`` is to the module in float32. ``as_tested`` is to the module at the precision of
    its checkpoint, which validation and test have measured, and whose ``decisions`` differ.
    """

    difference: float
    as_tested: float
    decisions: str


def write_folder(
    module: EPICModule, tokenizer: Any | None, folder: Path, int8: bool = False
) -> Written:
    """Write model, description and tokenizer of a module on the CPU, in evaluation mode.

    The module's encoders become float32: a file runs anywhere, and onnxruntime has few kernels.
    Other files in the folder stay. If a DataModule of this package prepared the data, there is
    ``predict.py`` with the files that it imports. ``int8`` adds a second model whose encoders have
    weights in 8 bits; it is not verified here.

    Raises:
        ConfigError: if the model cannot be exported, or its probabilities differ; the folder is
            then unchanged.
    """
    description = describe(module, tokenizer)
    eager = Probabilities(module.model, module.postprocessor)
    tested = _outputs(eager, module)
    for tower in module.model.towers:
        tower.encoder.float()
        tower.encoder.precision = None
    rank_zero_info("Tracing the model ...")
    program = export_program(eager)
    with folder_beside(folder) as made:
        path = made / ONNX
        rank_zero_info(f"Writing {ONNX} ...")
        write_onnx(program, path)
        if int8:
            rank_zero_info(f"Writing {ONNX_INT8} ...")
            write_int8(path, made / ONNX_INT8)
        if tokenizer is not None and description.preprocessing is not None:
            files = resources.files("epic_pl")
            script = files / f"inference/templates/{PREDICT}.tpl"  # no module of the package
            (made / PREDICT).write_bytes(script.read_bytes())
            for name, place in IMPORTED.items():
                (made / name).write_bytes((files / place / name).read_bytes())
        write_json(made / DESCRIPTION, asdict(description))
        if tokenizer is not None:
            tokenizer.save_pretrained(made / TOKENIZER)
        rank_zero_info("Comparing it with the checkpoint on random inputs ...")
        run = load_program(path)
        difference = largest_difference(run, module)
        if not difference <= TOLERANCE:  # also true for NaN
            told = f"probabilities differ by {difference:.1e}, more than {TOLERANCE:.0e}"
            raise ConfigError(f"The exported model's {told}: use the checkpoint.")
        given = _outputs(run, module)
        decided, before = map(module.postprocessor.predict, (given, tested))
        differing = int((decided != before).view(len(given), -1).any(dim=1).sum())
        as_tested = float((given - tested).abs().max())
        replace_model(made, folder)
    return Written(difference, as_tested, f"{differing} of {len(given)}")


def replace_model(made: Path, folder: Path) -> None:
    """Move a new model into a folder, in place of an old one.

    The old description is removed first and the new one moved last, so that a kill leaves no model.
    """
    folder.mkdir(exist_ok=True)
    for name in (DESCRIPTION, ONNX, f"{ONNX}.data", ONNX_INT8, PREDICT, *IMPORTED):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / TOKENIZER, ignore_errors=True)
    for path in sorted(made.iterdir(), key=lambda path: path.name == DESCRIPTION):
        path.replace(folder / path.name)


@torch.no_grad()
def _outputs(run: Program, module: EPICModule) -> Tensor:
    """Probabilities ``(N, C)`` of random inputs in batches of several sizes and lengths."""
    sizes = enumerate(_COMPARED, start=1)
    return torch.cat([run(*random_inputs(module.model, *size, seed)) for seed, size in sizes])


def largest_difference(run: Program, module: EPICModule) -> float:
    """Largest difference between the exported model's probabilities and the module's."""
    # not predict_step, which would warn of the missing modalities of the test batches
    expected = _outputs(Probabilities(module.model, module.postprocessor), module)
    return float((_outputs(run, module) - expected).abs().max())
