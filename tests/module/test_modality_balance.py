import pytest
import torch

from epic_pl.module.modality_balance import PooledRows, modality_balance, part_scales

ROWS, WIDTHS, CLASSES = 40, (6, 9), 3


def _rows(image_tells, text_tells, seed=0):
    """Centred features that show the class as clearly as said, and one-hot targets."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(ROWS) % CLASSES
    targets = torch.nn.functional.one_hot(labels).double()
    sides = []
    for width, tells in zip(WIDTHS, (image_tells, text_tells), strict=True):
        means = torch.randn(CLASSES, width, generator=generator, dtype=torch.double)
        noise = torch.randn(ROWS, width, generator=generator, dtype=torch.double)
        side = tells * means[labels] + noise
        sides.append(side - side.mean(dim=0))
    return *sides, targets


def _slow_errors(image, text, targets, ratio):
    """Squared errors of regressions that are fitted anew without each row, in the primal."""
    width = image.shape[1], text.shape[1]
    features = torch.cat(
        [image * (ratio / width[0]) ** 0.5, text / (ratio * width[1]) ** 0.5], dim=1
    )
    targets = targets - targets.mean(dim=0)
    scale = float(features.square().sum()) / ROWS
    best = None
    for power in range(-6, 4):
        penalty = 2.0**power * scale * torch.eye(features.shape[1], dtype=torch.double)
        errors = []
        for row in range(ROWS):
            rest = [other for other in range(ROWS) if other != row]
            gram = features[rest].T @ features[rest] + penalty
            weights = torch.linalg.solve(gram, features[rest].T @ targets[rest])
            errors.append(float((features[row] @ weights - targets[row]).square().sum()))
        if best is None or sum(errors) < sum(best):
            best = errors
    return torch.tensor(best)


def _slow_balance(image, text, targets):
    ratios = [2 ** (half / 2) for half in range(-5, 6)]
    errors = {ratio: _slow_errors(image, text, targets, ratio) for ratio in ratios}
    best = min(errors.values(), key=lambda values: values.mean())
    gained = (targets - targets.mean(dim=0)).square().sum(dim=1) - best
    if gained.mean() <= 2 * gained.std() / ROWS**0.5:
        return 1
    good = []
    for ratio, values in errors.items():
        worse = values - best
        if worse.mean() <= 2 * worse.std() / ROWS**0.5:
            good.append(ratio)
    return min(good, key=lambda ratio: (abs(torch.tensor(ratio).log2().round(decimals=3)), -ratio))


@pytest.mark.parametrize(
    ("image_tells", "text_tells"), [(2.0, 0.0), (0.0, 2.0), (0.7, 0.4), (0.0, 0.0)]
)
def test_it_is_what_fitting_anew_without_each_row_finds(image_tells, text_tells):
    image, text, targets = _rows(image_tells, text_tells)
    for loudness in (1.0, 3.0):
        rows = image, loudness * text, targets
        assert modality_balance(*rows) == pytest.approx(_slow_balance(*rows))


def test_what_tells_more_weighs_more_and_nothing_told_changes_nothing():
    image, text, targets = _rows(1.0, 0.0)
    assert modality_balance(image, 3 * text, targets) > 1
    image, text, targets = _rows(0.0, 1.0)
    assert modality_balance(3 * image, text, targets) < 1
    image, text, targets = _rows(0.0, 0.0)
    assert modality_balance(image, text, torch.ones_like(targets)) == 1  # all of one class
    # rows of one text with opposite labels: without one of them the other errs, however it weighs
    image, text, _ = _rows(0.0, 0.0)
    text = text[::2].repeat_interleave(2, dim=0)
    targets = torch.nn.functional.one_hot(torch.arange(ROWS) % 2)
    assert modality_balance(image, 3 * text, targets) == 1
    # so many features could learn anything by heart
    generator = torch.Generator().manual_seed(0)
    image, text = torch.randn(2, ROWS, 384, generator=generator, dtype=torch.double)
    assert modality_balance(image - image.mean(dim=0), text - text.mean(dim=0), targets) == 1
    # which modality is which makes no difference
    image, text, targets = _rows(1.0, 0.2)
    text = 3 * text
    there, back = modality_balance(image, text, targets), modality_balance(text, image, targets)
    assert there > 1
    assert there == pytest.approx(1 / back)


def test_several_labels_a_row_are_regressed_each():
    image, text, _ = _rows(0.0, 0.0)
    targets = torch.stack([image[:, 0] > 0, image[:, 1] > 0], dim=1)
    assert modality_balance(image, 3 * text, targets) > 1


def test_rows_are_described_by_those_present():
    values = torch.randn(64, 1, 5)
    present = torch.arange(64) % 2 == 0
    values[~present] = 1e3
    rows = PooledRows(values, present)
    there = torch.nn.functional.layer_norm(values[::2], (5,))
    torch.testing.assert_close(rows.mean, there.mean(dim=0))
    torch.testing.assert_close(rows.pooled_mean, values[::2].mean(dim=(0, 1)))
    assert rows.spread == pytest.approx(float(there.var(dim=0).mean().sqrt()))
    assert not rows.centred[1::2].any()
    torch.testing.assert_close(rows.centred[::2], (there - there.mean(dim=0))[:, 0])
    assert rows.tells


def test_no_vector_of_a_modality_varies_more_than_another():
    everyone = torch.ones(64, dtype=torch.bool)
    base = 10 * torch.randn(5)
    narrow, wide = base + 0.5 * torch.randn(64, 5), base + 5 * torch.randn(64, 5)
    rows = PooledRows(torch.stack([narrow, wide, base.expand(64, 5)], dim=1), everyone)
    spreads = rows.centred.view(64, 3, 5).var(dim=0).mean(dim=1).sqrt()
    torch.testing.assert_close(spreads, torch.tensor([rows.spread, rows.spread, 0.0]))
    assert rows.evened[0] > rows.evened[1]
    other = PooledRows(torch.randn(64, 1, 5), everyone)
    scales, [single] = part_scales(rows, other, 2.0)
    shares = [scale * spread for scale, spread in zip(scales, rows.spreads.tolist(), strict=True)]
    assert shares == pytest.approx([shares[0], shares[0], 0.0], abs=1e-6)
    assert sum(share**2 for share in shares[:2]) * 3 / 2 + (single * other.spread) ** 2 == (
        pytest.approx(2, rel=1e-3)
    )


@pytest.mark.parametrize("what", ["few", "same", "broken"])
def test_rows_that_say_nothing_are_known(what):
    values, present = torch.randn(64, 1, 5), torch.ones(64, dtype=torch.bool)
    if what == "few":
        present[8:] = False
    elif what == "same":
        values[:] = values[0]
    else:
        values[3, 0, 2] = torch.inf
    assert not PooledRows(values, present).tells


def test_scales_keep_what_both_vary_by_together():
    everyone = torch.ones(64, dtype=torch.bool)
    image, text = (PooledRows(torch.randn(64, 1, width), everyone) for width in WIDTHS)
    for balance in (1.0, 4.0):
        [of_image], [of_text] = part_scales(image, text, balance)
        shares = [of_image * image.spread, of_text * text.spread]
        assert shares[0] ** 2 + shares[1] ** 2 == pytest.approx(2)
        assert of_image / of_text == pytest.approx(balance)
    nothing = PooledRows(torch.zeros(64, 1, 4), everyone)
    assert part_scales(image, nothing, 1.0)[0] == pytest.approx([1 / image.spread])
