"""The precision of frozen encoders."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F

from epic_pl.utils.errors import ConfigError, first_line

EncoderPrecision = Literal["auto", "same", "bf16", "fp16", "bf16-true"]

DTYPES: dict[EncoderPrecision, torch.dtype | None] = {
    "auto": None,  # it is chosen when the device is known
    "same": None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "bf16-true": torch.bfloat16,
}

# of x86, of x86 with matrix tiles, and of Arm
_BF16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16")


def choose_precision(device: str, dtype: torch.dtype) -> tuple[EncoderPrecision, str]:
    """Resolve "auto" on a type of device, and say why.

    It depends on the hardware alone, not on what else runs there. CPUs with instructions for
    bfloat16 run encoders 1.5 to 2 times as fast in it, others less than half as fast.

    Args:
        device: type of the device, for example "cpu".
        dtype: data type of the encoders' weights.
    """
    if dtype != torch.float32:
        return "same", "the weights are not in float32"
    known = False
    if device == "cuda":
        known = torch.cuda.is_bf16_supported(including_emulation=False)
    # without oneDNN, as on macOS, torch multiplies hundreds of times slower in it
    elif device == "cpu" and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        able = getattr(torch.cpu, "get_capabilities", dict[str, bool])()  # torch 2.10 lacks it
        known = any(able.get(name) for name in _BF16_INSTRUCTIONS)
    what = "has" if known else "is not known to have"
    return ("bf16" if known else "same"), f"this {device} {what} instructions for bfloat16"


@contextmanager
def exact_products() -> Iterator[None]:
    """Multiply float32 matrices on a CPU in float32, whatever the user has set.

    After ``torch.set_float32_matmul_precision("medium")`` torch multiplies them as bfloat16.
    """
    products: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # made at import
    before = products.fp32_precision
    products.fp32_precision = "ieee"
    try:
        yield
    finally:
        products.fp32_precision = before


def check_precision(precision: EncoderPrecision, device: str) -> None:
    """Check that encoders can run in ``precision`` on a device type, for example "cpu".

    Raises:
        ConfigError: if torch has no kernels of this precision for the device.
    """
    dtype = DTYPES[precision]
    if dtype is None:
        return
    problem = f"its autocast does not cover {dtype}"
    try:
        with torch.no_grad(), torch.autocast(device, dtype):
            # the operations of a transformer layer; torch has no list of its kernels
            tokens = torch.ones(1, 2, 2, 8, device=device)  # (B, h, N, d / h)
            tokens = F.linear(F.layer_norm(tokens, (8,)), torch.ones(8, 8, device=device))
            outputs = F.gelu(F.scaled_dot_product_attention(tokens, tokens, tokens))
        if outputs.dtype == dtype:
            return
    except RuntimeError as error:
        problem = first_line(error)
    raise ConfigError(
        f"model.encoders.precision is {precision!r}, which torch {torch.__version__} cannot run on "
        f"{device}: {problem}. Set it to same, or to {'bf16' if precision == 'fp16' else 'fp16'}."
    )
