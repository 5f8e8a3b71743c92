"""State for an exact resume: random generators and partially accumulated gradients."""

import random
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from epic_pl.module.ranks import gather_objects
from epic_pl.utils.errors import CheckpointError

# entries of Lightning and of gather_states: dictionaries or lists of dictionaries
_MAPPINGS = ("loops", "callbacks")
_LISTS = ("optimizer_states", "lr_schedulers", "resume_states")


def rng_state() -> dict[str, Any]:
    """The states of Python's, NumPy's and torch's generators, as plain types and tensors.

    Of several GPUs only the current one is included, since a rank uses only its own.
    """
    version, keys, gauss = random.getstate()
    # the global generator is meant
    name, words, *rest = cast(Any, np.random.get_state())  # noqa: NPY002
    return {
        "python": [version, list(keys), gauss],
        "numpy": [name, words.tolist(), *rest],
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state()] if torch.cuda.is_available() else [],
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore random generators from the output of :func:`rng_state`."""
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    np.random.set_state(tuple(state["numpy"]))  # noqa: NPY002
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"][0].cpu())


def gather_states(module: nn.Module, mid_window: bool) -> list[dict[str, Any]]:
    """State of each rank for an exact resume, in the order of ranks; all ranks must call it.

    ``mid_window`` says that gradients are partially accumulated; they are then included.
    """
    state: dict[str, Any] = {"rng": rng_state(), "gradients": {}}
    if mid_window:
        state["gradients"] = {
            name: parameter.grad.detach().cpu()
            for name, parameter in module.named_parameters()
            if parameter.grad is not None
        }
    return gather_objects(state)


def check_resumable(checkpoint: Mapping[str, Any]) -> None:
    """Check that a checkpoint has the entries that resuming needs.

    Raises:
        CheckpointError: naming the entry that is missing or of another type.
    """
    for name in (*_MAPPINGS, *_LISTS):
        part = checkpoint.get(name)
        if isinstance(part, dict if name in _MAPPINGS else list):
            parts = part.values() if isinstance(part, dict) else part
            if all(isinstance(entry, dict) for entry in parts):
                continue
        raise CheckpointError(
            f"The checkpoint's {name} is damaged: start from its weights with --model.warm_start."
        )


def restore_state(module: nn.Module, state: Mapping[str, Any]) -> None:
    """Restore generators and gradients from this rank's output of :func:`gather_states`."""
    set_rng_state(state["rng"])
    parameters = dict(module.named_parameters())
    for name, gradient in state["gradients"].items():
        parameters[name].grad = gradient.to(parameters[name].device)
