"""Gradient for some positions of a layer only. Shape legend: B batch, N positions, d width."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def frozen_positions(linears: Iterable[nn.Module], count: int) -> Iterator[None]:
    """Context in which frozen ``linears`` compute no gradient for the first ``count`` positions.

    In the first layer with prompts, the tokens in front of the prompts depend on no trained
    parameter, but the backward pass of a linear layer would multiply all positions.

    Args:
        linears: take ``(B, N, d)``.
        count: number of positions in front that need no gradient.
    """
    entered: dict[nn.Module, Tensor] = {}

    def detach(linear: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        entered[linear] = inputs[0]
        return (inputs[0].detach(),)

    def attach(linear: Any, _: Any, outputs: Tensor) -> Tensor:
        behind: Tensor = linear.forward(entered.pop(linear)[:, count:])
        return torch.cat([outputs[:, :count], behind], dim=1)

    with ExitStack() as hooks:
        for linear in linears:
            hooks.enter_context(linear.register_forward_pre_hook(detach))
            hooks.enter_context(linear.register_forward_hook(attach))
        yield
