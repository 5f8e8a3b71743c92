import random

import numpy as np
import pytest
import torch

from epic_pl.module.rng import gather_rng_states, rng_state, set_rng_state


def draw():
    # an odd number of normals: each generator then keeps the second of a pair for later
    return (
        [random.random(), random.gauss(0, 1)],
        [*np.random.rand(3), np.random.standard_normal()],  # noqa: NPY002
        [*torch.rand(3).tolist(), torch.randn(1).item(), torch.randperm(5).tolist()],
    )


def test_the_same_numbers_after_a_round_trip():
    draw()
    state = rng_state()
    first = draw()
    assert draw() != first
    set_rng_state(state)
    assert draw() == first


def test_survives_a_checkpoint_file_without_code(tmp_path):
    draw()
    torch.save(rng_state(), tmp_path / "rng.pt")
    first = draw()
    set_rng_state(torch.load(tmp_path / "rng.pt", weights_only=True))
    assert draw() == first


def test_taking_the_state_draws_nothing():
    state = rng_state()
    first = draw()
    set_rng_state(state)
    rng_state()
    gather_rng_states()
    assert draw() == first


@pytest.mark.parametrize(("states", "own"), [([7], 0), ([5, 6], 1), ([5], 0)])
def test_a_machine_may_have_fewer_gpus_than_the_one_before(states, own, monkeypatch):
    given = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_rng_state", given.append)
    state = rng_state_of_cpu() | {"cuda": [torch.tensor([number]) for number in states]}
    set_rng_state(state)
    assert given == [torch.tensor([states[own]])]


def rng_state_of_cpu():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        return rng_state()


def test_one_process_gathers_its_own():
    states = gather_rng_states()
    assert len(states) == 1
    assert torch.equal(states[0]["torch"], torch.get_rng_state())
