"""Gradient for some positions of a layer only. Shape legend: B batch, N positions, d width."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def frozen_positions(linears: Iterable[nn.Module], count: int) -> Iterator[None]:
    """Within it, frozen ``linears`` work out no gradient for the first ``count`` positions.

    What enters the first layer with prompts is prompts behind tokens that depend on nothing
    trained. A linear layer of both would have its backward pass multiply all of them.

    Args:
        linears: take ``(B, N, d)``.
        count: of the positions in front, which want no gradient.
    """
    entered: dict[nn.Module, Tensor] = {}

    def detach(linear: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        entered[linear] = inputs[0]
        return (inputs[0].detach(),)

    def attach(linear: Any, _: Any, outputs: Tensor) -> Tensor:
        behind: Tensor = linear.forward(entered.pop(linear)[:, count:])
        return torch.cat([outputs[:, :count], behind], dim=1)

    handles = []
    for linear in linears:
        handles.append(linear.register_forward_pre_hook(detach))
        handles.append(linear.register_forward_hook(attach))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
