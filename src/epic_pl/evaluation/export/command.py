"""``epic-pl export``."""

import argparse
from pathlib import Path


def parser() -> argparse.ArgumentParser:
    """Parser of ``epic-pl export``."""
    parser = argparse.ArgumentParser(
        "epic-pl export",
        allow_abbrev=False,
        description=(
            "Write a trained model as a folder that runs without this package: the program for "
            "torch.export.load, its description in JSON, and the tokenizer."
        ),
    )
    parser.add_argument("--ckpt_path", metavar="PATH", required=True, help="of the checkpoint")
    parser.add_argument("--output", type=Path, default=Path("runs/export"), help="(%(default)s)")
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

    from epic_pl.classifier.models import load_module
    from epic_pl.evaluation.export.folder import check_output, find_tokenizer, write_folder

    folder = options.output
    check_output(folder, options.overwrite)
    module = load_module(options.ckpt_path, options.image_encoder, options.text_encoder)
    difference = write_folder(module, find_tokenizer(module), folder)
    print(f"{options.ckpt_path} exported to {folder}")
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        print(f"  {path.relative_to(folder)}  {path.stat().st_size / 1e6:,.1f} MB")
    print(f"largest difference to the checkpoint's probabilities: {difference:.1e}")
    return 0
