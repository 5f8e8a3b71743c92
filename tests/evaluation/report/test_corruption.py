import numpy as np
import pytest
import torch

from epic_pl.data.preprocessing import ImagePreprocessing
from epic_pl.evaluation.report.corruption import (
    CORRUPTIONS,
    IMAGES,
    TEXTS,
    Corrupted,
    add_noise,
    add_typos,
    blur,
    coarsen,
    drop_words,
)

TEXT = "the quick brown fox jumps over the lazy dog " * 200


def _rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("rate", [0.1, 0.3])
def test_typos_drop_and_swap_half_each_and_keep_spaces(rate):
    slipped = add_typos(TEXT, rate, _rng())
    letters = sum(c != " " for c in TEXT)
    left_out = (len(TEXT) - len(slipped)) / letters
    assert left_out == pytest.approx(rate / 2, rel=0.15)
    assert slipped.count(" ") == TEXT.count(" ")
    assert add_typos(TEXT, 0.0, _rng()) == TEXT
    assert add_typos("", 0.5, _rng()) == ""
    long = "abcdefghij" * 500
    swapped = add_typos(long, rate, _rng())
    assert sum(pair in swapped for pair in ("ba", "cb", "dc", "ed")) == 4


def test_words_are_dropped_whole_and_one_stays():
    kept = drop_words(TEXT, 0.3, _rng()).split()
    assert len(kept) / len(TEXT.split()) == pytest.approx(0.7, abs=0.05)
    assert set(kept) == set(TEXT.split())
    assert drop_words("a b c", 1.0, _rng()) in {"a", "b", "c"}
    assert drop_words("", 1.0, _rng()) == ""


def test_noise_blur_and_coarsening_have_their_strength():
    flat = torch.full((3, 64, 64), 0.5)
    assert float((add_noise(flat, 0.1, _rng()) - flat).std()) == pytest.approx(0.1, rel=0.05)
    for change, strength in ((blur, 0.03), (coarsen, 8)):
        torch.testing.assert_close(change(flat, strength, _rng()), flat)
    dot = torch.zeros(1, 101, 101)
    dot[0, 50, 50] = 1
    spread = blur(dot, 0.02, _rng())[0]
    at = torch.arange(101.0) - 50
    variance = float((spread.sum(dim=0) * at**2).sum())
    assert variance == pytest.approx(2.02**2, rel=0.05)  # of 2% of 101 pixels
    stripes = (torch.arange(64) % 2).float().expand(3, 64, 64)
    assert float(coarsen(stripes, 4, _rng()).std()) < 0.1 * float(stripes.std())


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_one_modality_is_changed_the_same_way_each_time(name):
    preprocessing = ImagePreprocessing(32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic", 0.9)
    whole = {"image": torch.randn(3, 32, 32).clamp(-1, 1), "text": "some words about an image"}
    original = [whole, whole | {"image": None}, whole | {"text": None}]
    rows, again = (Corrupted(original, 3, name, preprocessing) for _ in range(2))
    second = [again[index] for index in (2, 1, 0)][::-1]  # in any order, as workers take them
    for index in range(len(rows)):
        sample, plain = rows[index], original[index]
        assert (sample["text"] is None, sample["image"] is None) == (index == 2, index == 1)
        assert sample["text"] == second[index]["text"]
        if sample["image"] is not None:
            assert torch.equal(sample["image"], second[index]["image"])
            same = torch.allclose(sample["image"], plain["image"], atol=1e-6)
            assert same == (name in TEXTS)
            assert sample["image"].abs().max() <= 1
        if name in IMAGES:
            assert sample["text"] == plain["text"]
