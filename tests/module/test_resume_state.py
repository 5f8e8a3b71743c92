import random

import numpy as np
import torch

from epic_pl.module.resume import gather_states, restore_state, rng_state, set_rng_state


def draw():
    # an odd number of normals: each generator then keeps the second of a pair for later
    return (
        [random.random(), random.gauss(0, 1)],
        [*np.random.rand(3), np.random.standard_normal()],  # noqa: NPY002
        [*torch.rand(3).tolist(), torch.randn(1).item(), torch.randperm(5).tolist()],
    )


def test_the_same_numbers_after_a_round_trip_through_a_file_without_code(tmp_path):
    draw()
    torch.save(rng_state(), tmp_path / "rng.pt")
    first = draw()
    assert draw() != first
    set_rng_state(torch.load(tmp_path / "rng.pt", weights_only=True))
    assert draw() == first


def test_taking_the_state_draws_nothing():
    module, state = torch.nn.Linear(2, 2), rng_state()
    first = draw()
    set_rng_state(state)
    gather_states(module, mid_window=True)
    assert draw() == first


def test_a_gpus_state_is_left_out_where_there_is_none(monkeypatch):
    given = []
    state = rng_state() | {"cuda": [torch.tensor([7])]}
    monkeypatch.setattr(torch.cuda, "set_rng_state", given.append)
    for available in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        set_rng_state(state)
    assert given == [torch.tensor([7])]


def test_half_accumulated_gradients_are_kept_in_the_middle_of_a_window_only():
    module = torch.nn.Linear(2, 2)
    module.bias.requires_grad_(False)
    module(torch.ones(1, 2)).sum().backward()
    (kept,), (dropped,) = (gather_states(module, mid_window) for mid_window in (True, False))
    assert dropped["gradients"] == {}
    other = torch.nn.Linear(2, 2)
    restore_state(other, kept)
    assert torch.equal(other.weight.grad, module.weight.grad)
    assert other.bias.grad is None
