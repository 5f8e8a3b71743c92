import torch

from epic_pl.nn import ClassificationHead


def test_norm_then_linear():
    head = ClassificationHead(6, 3, dropout=0.5).eval()
    torch.nn.init.normal_(head.norm.weight)
    torch.nn.init.normal_(head.norm.bias)
    features = torch.randn(4, 6)
    centred = features - features.mean(dim=1, keepdim=True)
    normed = centred / (features.var(dim=1, keepdim=True, unbiased=False) + head.norm.eps).sqrt()
    normed = normed * head.norm.weight + head.norm.bias
    torch.testing.assert_close(head(features), normed @ head.linear.weight.T + head.linear.bias)


def test_dropout_in_training_only():
    head = ClassificationHead(64, 3, dropout=0.5)
    features = torch.randn(4, 64)
    assert not torch.equal(head(features), head(features))
    head.eval()
    assert torch.equal(head(features), head(features))
