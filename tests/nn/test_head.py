import pytest
import torch

from epic_pl.nn import ClassificationHead


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


def test_a_missing_aware_head_starts_as_any_other_and_learns_for_who_is_alone():
    torch.manual_seed(0)
    plain = ClassificationHead([4, 2], 3)
    torch.manual_seed(0)
    aware = ClassificationHead([4, 2], 3, missing_aware=True)
    parts = [torch.randn(3, 4), torch.randn(3, 2)]
    image, text = torch.tensor([True, True, False]), torch.tensor([True, False, True])
    assert torch.equal(aware(parts, image, text), plain(parts))
    torch.nn.init.normal_(aware.alone.weight)
    moved = (aware(parts, image, text) - plain(parts)).abs().sum(dim=1)
    assert moved[0] == 0
    assert (moved[1:] > 0).all()
    assert torch.equal(aware(parts), plain(parts))  # without masks everybody is there
    # what is absent has no say in the correction
    other = [parts[0].clone(), parts[1].clone()]
    other[0][2], other[1][1] = torch.randn(4), torch.randn(2)
    correction = aware(parts, image, text) - plain(parts)
    torch.testing.assert_close(aware(other, image, text) - plain(other), correction)
