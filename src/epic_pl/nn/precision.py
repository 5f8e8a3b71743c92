"""The precision of frozen encoders."""

import time
from functools import cache
from typing import Literal

import torch
import torch.nn.functional as F

from epic_pl.utils.errors import ConfigError, first_line

EncoderPrecision = Literal["auto", "same", "bf16", "fp16"]

DTYPES: dict[EncoderPrecision, torch.dtype | None] = {
    "auto": None,  # it is chosen when the device is known
    "same": None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


def choose_precision(
    precision: EncoderPrecision, device: str, dtype: torch.dtype
) -> tuple[EncoderPrecision, float]:
    """Resolve "auto" on a type of device; also return the speed of bfloat16 relative to float32.

    Args:
        precision: the option's value; any but "auto" is returned as it is, with a speed of 0.
        device: type of the device, for example "cpu".
        dtype: data type of the encoders' weights; "auto" is "same" unless it is float32.
    """
    if precision != "auto":
        return precision, 0.0
    gain = bfloat16_gain(device) if dtype == torch.float32 else 0.0
    return ("bf16" if gain > 1 else "same"), gain


@cache
def bfloat16_gain(device: str) -> float:
    """Speed of a matrix product in bfloat16 relative to float32; 0 if the device cannot do it.

    It times a product as in a transformer layer, the fastest of several. With hardware for bfloat16
    the result is about 2, without it below 0.6, so a busy machine does not change the choice, and
    two turns each are enough where it is far below.
    """
    try:
        check_precision("bf16", device)
    except ConfigError:
        return 0.0
    tokens = torch.ones(512, 384, device=device)
    weight = torch.ones(1536, 384, device=device)
    fastest = {True: float("inf"), False: float("inf")}
    with torch.no_grad():
        for turn, low in enumerate((True, False) * 6):
            if turn >= 4 and fastest[True] > 2 * fastest[False]:
                break
            with torch.autocast(device, torch.bfloat16, enabled=low):
                start = time.perf_counter()
                F.linear(tokens, weight).sum().item()  # item() waits for the device
                fastest[low] = min(fastest[low], time.perf_counter() - start)
    return fastest[False] / fastest[True]


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
        f"model.encoders.precision is {precision!r}, which torch {torch.__version__} does not "
        f"support on this device ({device}): {problem}. Set it to same, or to "
        f"{'bf16' if precision == 'fp16' else 'fp16'} if the device supports that."
    )
