"""``epic-pl export``."""

import argparse
from pathlib import Path

from epic_pl.errors import ConfigError


def parser() -> argparse.ArgumentParser:
    """Parser of ``epic-pl export``."""
    parser = argparse.ArgumentParser(
        "epic-pl export",
        allow_abbrev=False,
        description=(
            "Write a trained model as a folder that runs without this package: the model, its "
            "description in JSON, the tokenizer, and for ONNX predict.py."
        ),
    )
    parser.add_argument("--ckpt_path", metavar="PATH", required=True, help="of the checkpoint")
    parser.add_argument("--output", type=Path, default=Path("runs/export"), help="(%(default)s)")
    parser.add_argument(
        "--format",
        choices=("torch_export", "onnx"),
        default="torch_export",
        help="torch_export for torch.export.load, or onnx (extra `onnx`); %(default)s",
    )
    parser.add_argument(
        "--int8",
        metavar="CONFIG",
        help="with onnx: also a model whose encoders have weights in 8 bits; this config's "
        "validation split tells what that costs",
    )
    parser.add_argument("--trusted-only", action="store_true", help="as for fit, with --int8")
    parser.add_argument("--overwrite", action="store_true", help="replace a model that is there")
    for role in ("image", "text"):
        parser.add_argument(
            f"--{role}_encoder",
            metavar="NAME",
            help=f"where the {role} encoder is now, if not where the checkpoint says",
        )
    return parser


def run(argv: list[str]) -> int:
    """Run ``epic-pl export ARGV`` and return the exit code.

    Raises:
        EpicError: with a message for the user.
    """
    options = parser().parse_args(argv)

    from epic_pl.cli import build_data
    from epic_pl.evaluation.export.accuracy import compare_scores
    from epic_pl.evaluation.export.folder import check_output, find_tokenizer, write_folder
    from epic_pl.inference.models import load_module

    folder, int8 = options.output, options.int8
    if int8 and options.format != "onnx":
        raise ConfigError("--int8 makes a second ONNX model: add --format onnx.")
    check_output(folder, options.overwrite)
    data = int8 and build_data(["--config", int8, *["--trusted-only"] * options.trusted_only])
    module = load_module(Path(options.ckpt_path), options.image_encoder, options.text_encoder)
    written = write_folder(module, find_tokenizer(module), folder, options.format, bool(int8))
    print(f"{options.ckpt_path} exported to {folder}")
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        print(f"  {path.relative_to(folder)}  {path.stat().st_size / 1e6:,.1f} MB")
    print(
        f"one sample takes {1000 * written.seconds:.1f} ms, in eager torch "
        f"{1000 * written.eager_seconds:.1f} ms"
    )
    print(f"largest difference to the checkpoint's probabilities: {written.difference:.1e}")
    if data:
        print(compare_scores(folder, module, data))
    return 0
