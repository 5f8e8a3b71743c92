import pytest
import torch

from epic_pl.nn import ClassificationHead
from epic_pl.nn.heads.classification import AloneHead


def reference_norm(features, norm):
    centred = features - features.mean(dim=1, keepdim=True)
    normed = centred / (features.var(dim=1, keepdim=True, unbiased=False) + norm.eps).sqrt()
    return normed * norm.weight + norm.bias


def randomise(norm):
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)


def test_joint_norm_is_linear_of_one_layer_norm():
    head = ClassificationHead([4, 2], 3, dropout=0.5, norm="joint").eval()
    randomise(head.norm)
    parts = [torch.randn(5, 4), torch.randn(5, 2)]
    normed = reference_norm(torch.cat(parts, dim=1), head.norm)
    expected = normed @ head.linear.weight.T + head.linear.bias
    torch.testing.assert_close(head(parts), expected)


def test_parts_are_normalised_each_on_its_own():
    head = ClassificationHead([4, 2], 3).eval()
    for norm in head.norms:
        randomise(norm)
    parts = [torch.randn(5, 4), torch.randn(5, 2)]
    normed = [reference_norm(part, norm) for part, norm in zip(parts, head.norms, strict=True)]
    expected = torch.cat(normed, dim=1) @ head.linear.weight.T + head.linear.bias
    torch.testing.assert_close(head(parts), expected)
    # a part's scale does not matter, which is the point
    parts = [torch.randn(5, 4), 10 * torch.randn(5, 2)]
    scaled = head([parts[0], 100 * parts[1]])
    torch.testing.assert_close(scaled, head(parts), atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("norm", ["parts", "joint"])
def test_dropout_is_on_in_training_only(norm):
    head = ClassificationHead([32, 32], 3, dropout=0.5, norm=norm)
    parts = [torch.randn(4, 32), torch.randn(4, 32)]
    assert not torch.equal(head(parts), head(parts))
    head.eval()
    assert torch.equal(head(parts), head(parts))


def alone_and_who_is_there():
    alone = AloneHead([4, 2, 4, 2, 4, 2], 3, dropout=0.5, scales=[1.0] * 6, summaries=4).eval()
    parts = [torch.randn(3, width) for width in (4, 2, 4, 2, 4, 2)]
    return alone, parts, torch.tensor([True, True, False]), torch.tensor([True, False, True])


def test_a_head_for_who_is_alone_starts_as_any_other_and_learns_for_them():
    alone, parts, image, text = alone_and_who_is_there()
    head = ClassificationHead([4, 2], 3, alone=alone).eval()
    shared = parts[:2]
    plain = head(shared, parts)  # without masks everybody is there
    assert torch.equal(head(shared, parts, image, text), plain)
    torch.nn.init.normal_(alone.linear.weight)
    moved = (head(shared, parts, image, text) - plain).abs().sum(dim=1)
    assert moved[0] == 0
    assert (moved[1:] > 0).all()
    assert torch.equal(head(shared, parts), plain)
    for only in (False, True):
        added = head(shared, parts, image, text, only) - head(shared, parts, summaries_only=only)
        expected = alone(parts, image, text, only)
        torch.testing.assert_close(added, expected, atol=1e-6, rtol=1e-5)
    assert not torch.equal(alone(parts, image, text, True), alone(parts, image, text, False))


def test_who_is_alone_is_named_by_own_weights_of_what_is_there():
    alone, parts, image, text = alone_and_who_is_there()
    torch.nn.init.normal_(alone.linear.weight)
    for norm in alone.norms:
        randomise(norm)
    normed = [reference_norm(part, norm) for part, norm in zip(parts, alone.norms, strict=True)]
    weights = alone.linear.weight.split([4, 2, 4, 2, 4, 2], dim=1)
    each = [x @ w.T for x, w in zip(normed, weights, strict=True)]
    logits, summaries = alone(parts, image, text), alone(parts, image, text, True)
    torch.testing.assert_close(logits[1], each[0][1] + each[2][1] + each[4][1])
    torch.testing.assert_close(logits[2], each[1][2] + each[3][2] + each[5][2])
    torch.testing.assert_close(summaries[1], each[0][1] + each[2][1])
    torch.testing.assert_close(summaries[2], each[1][2] + each[3][2])


def test_what_stands_in_the_place_of_the_absent_never_matters():
    alone, parts, image, text = alone_and_who_is_there()
    torch.nn.init.normal_(alone.linear.weight)
    before = alone(parts, image, text)
    parts[0][2], parts[1][1] = torch.nan, torch.inf
    parts[4][0], parts[5][0] = torch.nan, torch.inf  # nor what a complete sample need not have
    parts = [part.requires_grad_() for part in parts]
    assert torch.equal(alone(parts, image, text), before)
    alone(parts, image, text).sum().backward()
    assert all(p.grad.isfinite().all() for p in (*parts, *alone.parameters()))
