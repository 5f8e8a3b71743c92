"""``epic-pl export``."""

import argparse
from pathlib import Path
from typing import Any

from epic_pl.errors import AssetError, EncoderError


def parser() -> argparse.ArgumentParser:
    """Of ``epic-pl export``."""
    parser = argparse.ArgumentParser(
        "epic-pl export",
        allow_abbrev=False,
        description=(
            "Write a trained model as a folder that runs without this package: the program for "
            "torch.export.load, what it needs to know in JSON, and the tokenizer. It is read again "
            "and compared with the checkpoint."
        ),
    )
    parser.add_argument("--ckpt_path", metavar="PATH", required=True, help="of the checkpoint")
    parser.add_argument(
        "--output", metavar="DIR", default="runs/export", help="folder (%(default)s)"
    )
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

    from epic_pl.evaluation.export.folder import check_output, write_folder
    from epic_pl.module import EPICModule
    from epic_pl.module.checkpoint import read_checkpoint, require_info

    folder = Path(options.output)
    check_output(folder, options.overwrite)
    require_info(read_checkpoint(options.ckpt_path))
    moved = {
        name: value
        for name in ("image_encoder", "text_encoder")
        if (value := getattr(options, name)) is not None
    }
    module = EPICModule.load_from_checkpoint(options.ckpt_path, map_location="cpu", **moved).eval()
    tokenizer = _tokenizer(module)
    difference = write_folder(module, tokenizer, folder)
    print(f"{options.ckpt_path} exported to {folder}")
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        print(f"  {path.relative_to(folder)}  {_size(path)}")
    print(f"largest difference to the checkpoint's probabilities: {difference:.1e}")
    return 0


def _tokenizer(module: Any) -> Any | None:
    """Of the text encoder; None where texts were prepared by other means and there is none."""
    from epic_pl.data.preprocessing import load_tokenizer
    from epic_pl.evaluation.export.description import image_preprocessing_of

    encoder = module.checkpoint_info()["text_encoder"]
    try:
        return load_tokenizer(encoder["name"], encoder["revision"])
    except (AssetError, EncoderError) as error:
        if image_preprocessing_of(module) is not None:  # a DataModule of ours had it
            raise
        print(f"exported without a tokenizer: {error}")
        return None


def _size(path: Path) -> str:
    size = path.stat().st_size
    return f"{size / 1e6:,.1f} MB" if size >= 100_000 else f"{size / 1e3:,.1f} kB"
