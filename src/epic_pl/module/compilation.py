"""Support of torch.compile, also for texts of different lengths.

Shape legend: B batch, N text tokens, d width, h heads, K steps.
"""

from typing import Any

import torch
from torch import Tensor, nn

from epic_pl.nn.towers import TOKEN_AXES
from epic_pl.utils.errors import ConfigError, raised_as
from epic_pl.utils.types import Batch

_STORED_AXES = {name: axis + 1 for name, axis in TOKEN_AXES.items() if axis is not None}
# the axis that counts tokens in each tensor of a batch
_TEXT_AXES = {"input_ids": 1, "attention_mask": 1, **_STORED_AXES}


def is_compiled(model: nn.Module) -> bool:
    """Whether ``model.compile()`` was called."""
    return model._compiled_call_impl is not None  # torch tells it nowhere else


def compile_model(model: nn.Module, device: torch.device) -> None:
    """Compile a model in place, so that the keys of its checkpoints do not change.

    Raises:
        ConfigError: if ``torch.compile`` does not work on the device.
    """
    if not is_compiled(model):
        check_compiler(device)
        model.compile()


def check_compiler(device: torch.device) -> None:
    """Compile a trivial function to check that ``torch.compile`` works.

    Raises:
        ConfigError: if it does not, for example without a C++ compiler.
    """
    trivial = torch.compile(lambda tensor: tensor * 2 + 1)
    problem = "compile is on, but torch.compile does not work here"
    way_out = "Install g++ (or set CXX) and on a GPU Triton, or set model.compile to false."
    with raised_as(ConfigError, problem, way_out):
        trivial(torch.ones(8, device=device))


def mark_lengths(batch: Batch) -> None:
    """Mark N as dynamic, so that one graph is compiled for texts of any length."""
    texts: dict[str, Any] = {**batch, **batch.get("text_features", {})}
    for name, axis in _TEXT_AXES.items():
        if isinstance(texts.get(name), Tensor):
            # torch's documentation names it so
            torch._dynamo.maybe_mark_dynamic(texts[name], axis)
