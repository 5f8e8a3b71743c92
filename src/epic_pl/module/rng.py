"""The random generators' states, kept so that a resumed run draws the same numbers."""

import random
from typing import Any

import numpy as np
import torch
import torch.distributed as dist


def rng_state() -> dict[str, Any]:
    """The states of Python's, NumPy's and torch's generators, as plain types and tensors.

    Of GPUs that of the current one: a rank draws on its own.
    """
    version, keys, gauss = random.getstate()
    numpy_state: Any = np.random.get_state(legacy=True)  # noqa: NPY002 the global one, on purpose
    name, words, position, has_gauss, cached = numpy_state
    return {
        "python": [version, list(keys), gauss],
        "numpy": [name, words.tolist(), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state()] if torch.cuda.is_available() else [],
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Put back what :func:`rng_state` took."""
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    name, words, position, has_gauss, cached = state["numpy"]
    numpy_words = np.array(words, dtype=np.uint32)
    np.random.set_state((name, numpy_words, position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and torch.cuda.is_available():
        # checkpoints of before have all GPUs of their machine
        own = torch.cuda.current_device() if len(state["cuda"]) > 1 else 0
        torch.cuda.set_rng_state(state["cuda"][min(own, len(state["cuda"]) - 1)].cpu())


def gather_rng_states() -> list[dict[str, Any]]:
    """Every rank's :func:`rng_state`, in the order of ranks; all ranks must call it."""
    if not (dist.is_available() and dist.is_initialized()):
        return [rng_state()]
    states: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(states, rng_state())
    return states
