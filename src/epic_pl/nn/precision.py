"""The precision of frozen encoders."""

from typing import Literal

import torch
import torch.nn.functional as F

from epic_pl.errors import ConfigError, first_line

EncoderPrecision = Literal["same", "bf16", "fp16"]

DTYPES: dict[EncoderPrecision, torch.dtype | None] = {
    "same": None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


def check_precision(precision: EncoderPrecision, device: str) -> None:
    """Check that encoders can run in ``precision`` on a device type, for example "cpu".

    Raises:
        ConfigError: if torch has no such kernels there.
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
        f"model.encoders.precision is {precision!r}, which torch {torch.__version__} cannot do on "
        f"this device ({device}): {problem}. Set it to same, or to "
        f"{'bf16' if precision == 'fp16' else 'fp16'} if it can do that."
    )
