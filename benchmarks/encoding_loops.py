"""Images a second of one frozen image encoder in different loops, and how equal the tokens are.

    python benchmarks/encoding_loops.py --threads 1                      # about four minutes
    python benchmarks/encoding_loops.py --threads 1 --size 224 --images 64 --json

The encoder is that of ``--encoder`` with its own weights, on images that are in memory; the loops
take turns, and the best of ``--rounds`` turns counts. `cosine` is the smallest one of a token's
outputs with those of the first loop. OpenVINO is left out where it is not installed: it is no
dependency of epic_pl.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from common import build_parser, device_name, show
from encode import fabricate
from epic_pl.nn.encoders import build_image_encoder

Loop = Callable[[Tensor], Tensor]


def main() -> None:
    options = parse_arguments()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as scratch:
        show(measure(options, Path(scratch)), options.json)


def parse_arguments() -> argparse.Namespace:
    parser = build_parser(__doc__)
    parser.add_argument("--encoder", default="pypi:dinov2-small")
    parser.add_argument("--size", type=int, default=112, help="of an image, pixels")
    parser.add_argument("--images", type=int, default=128, help="of a turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


@torch.inference_mode()
def measure(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """A row for each loop."""
    encoder = build_image_encoder(options.encoder, pretrained=True, image_size=options.size)
    images = photographs(folder, options.images, options.size)
    loops = build_loops(Tokens(encoder).eval(), images[:32], folder, options.threads)
    expected = next(iter(loops.values()))[0](images[:32])
    cosines = {
        name: F.cosine_similarity(loop(images[:32]).float(), expected, dim=-1).min().item()
        for name, (loop, _) in loops.items()
    }
    rates = dict.fromkeys(loops, 0.0)
    for _ in range(options.rounds):
        for name, (loop, batch) in loops.items():
            start = time.perf_counter()
            for part in images.split(batch):
                loop(part)
            rates[name] = max(rates[name], len(images) / (time.perf_counter() - start))
    first = next(iter(rates.values()))
    return [
        {
            "loop": name,
            "images_per_s": round(rates[name], 1),
            "over_first": round(rates[name] / first, 2),
            "cosine": f"{cosines[name]:.6f}",
            "device": device_name(),
        }
        for name in loops
    ]


class Tokens(nn.Module):
    """All layers of an encoder, as the feature store runs them."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: Tensor) -> Tensor:
        """Tokens ``(B, N, d)`` of images ``(B, 3, H, W)``."""
        tokens: Tensor = self.encoder.run_layers(
            0, self.encoder.num_layers, self.encoder.embed(pixels)
        )
        return tokens


def photographs(folder: Path, number: int, size: int) -> Tensor:
    """Normalised images ``(N, 3, H, W)``."""
    pixels = []
    for index in range(number):
        with Image.open(folder / fabricate(folder, index)) as image:
            resized = torch.frombuffer(
                bytearray(image.resize((size, size)).tobytes()), dtype=torch.uint8
            )
        pixels.append(resized.view(size, size, 3).permute(2, 0, 1) / 127.5 - 1)
    return torch.stack(pixels)


def build_loops(
    model: Tokens, example: Tensor, folder: Path, threads: int
) -> dict[str, tuple[Loop, int]]:
    """Loops by name, each with its batch size; the first is the reference."""
    loops: dict[str, tuple[Loop, int]] = {"eager, float32, batch 32": (model, 32)}
    loops |= {f"eager, batch {batch}": (model, batch) for batch in (4, 8, 16, 64)}
    loops["channels last"] = lambda x: model(x.contiguous(memory_format=torch.channels_last)), 32
    loops["bfloat16"] = in_bfloat16(model), 32
    for backend in (SDPBackend.MATH, SDPBackend.FLASH_ATTENTION):
        loops[f"attention: {backend.name.lower()}"] = with_attention(model, backend), 32
    loops["torch.compile"] = torch.compile(model, dynamic=False), 32
    frozen = torch.compile(model, dynamic=False, options={"freezing": True})
    loops["torch.compile, weights frozen"] = frozen, 32
    path = folder / "encoder.onnx"
    torch.onnx.export(model, (example,), str(path), input_names=["pixels"], verbose=False)
    loops["onnxruntime"] = in_onnxruntime(path, threads), 32
    if find_spec("openvino"):
        loops["OpenVINO"] = in_openvino(path, threads), 32
    return loops


def in_bfloat16(model: Tokens) -> Loop:
    def run(pixels: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return model(pixels)  # type: ignore[no-any-return]

    return run


def with_attention(model: Tokens, backend: SDPBackend) -> Loop:
    def run(pixels: Tensor) -> Tensor:
        with sdpa_kernel(backend):
            return model(pixels)  # type: ignore[no-any-return]

    return run


def in_onnxruntime(path: Path, threads: int) -> Loop:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    return lambda pixels: torch.from_numpy(session.run(None, {"pixels": pixels.numpy()})[0])


def in_openvino(path: Path, threads: int) -> Loop:
    import openvino

    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    return lambda pixels: torch.from_numpy(compiled(pixels.numpy())[0].copy())


if __name__ == "__main__":
    main()
