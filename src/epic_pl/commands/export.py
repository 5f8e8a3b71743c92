"""``epic-pl export``."""

from pathlib import Path
from typing import Literal

from epic_pl.errors import ConfigError


def export(
    *,
    ckpt_path: Path,
    output: Path = Path("runs/export"),
    format: Literal["torch_export", "onnx"] = "torch_export",
    int8: str | None = None,
    trusted_only: bool = False,
    overwrite: bool = False,
    image_encoder: str | None = None,
    text_encoder: str | None = None,
) -> None:
    """Write a trained model as a folder that runs without this package.

    It has the model, its description in JSON, the tokenizer, and for ONNX predict.py.

    Args:
        ckpt_path: the checkpoint.
        output: the folder.
        format: torch_export for torch.export.load, or onnx (extra `onnx`).
        int8: with onnx: also write a model whose encoders have weights in 8 bits; this is the
            config whose validation split tells what that costs.
        trusted_only: as for fit, with int8.
        overwrite: replace a model that is there.
        image_encoder: where the image encoder is now, if not where the checkpoint says.
        text_encoder: the same of the text encoder.

    Raises:
        EpicError: with a message for the user.
    """
    from epic_pl.cli import build_data
    from epic_pl.evaluation.export.folder import check_output, find_tokenizer, write_folder
    from epic_pl.evaluation.export.onnx_file import compare_scores
    from epic_pl.inference.models import load_module

    if int8 and format != "onnx":
        raise ConfigError("--int8 makes a second ONNX model: add --format onnx.")
    check_output(output, overwrite)
    trusted = ["--trusted-only"] * trusted_only
    data = build_data(["--config", int8, *trusted]) if int8 else None
    module = load_module(ckpt_path, image_encoder, text_encoder)
    written = write_folder(module, find_tokenizer(module), output, format, bool(int8))
    print(f"{ckpt_path} exported to {output}")
    for path in sorted(path for path in output.rglob("*") if path.is_file()):
        print(f"  {path.relative_to(output)}  {path.stat().st_size / 1e6:,.1f} MB")
    print(
        f"one sample takes {1000 * written.seconds:.1f} ms, in eager torch "
        f"{1000 * written.eager_seconds:.1f} ms"
    )
    print(f"largest difference to the checkpoint's probabilities: {written.difference:.1e}")
    if data:
        print(compare_scores(output, module, data))
