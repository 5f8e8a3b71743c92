"""Boosted trees on the features of a table's columns, as an expert of the head.

Shape legend: B batch, N samples, C classes, F features of a table's columns, T trees of a class.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from epic_pl.utils.types import Task

# chosen on tables of a shop and of a rule of columns (benchmarks/columns.py); options of none
TREES = 100
_DEPTH = 3
_RATE = 0.05
_SEEN = 0.3  # share of the features that a split chooses from
_SHARE, _MOST_SAMPLED = 0.5, 2000  # of the rows that each tree sees
_MOST_ROWS = 20_000
_INNER, _LEAVES = 2**_DEPTH - 1, 2**_DEPTH


class BoostedTrees(nn.Module):
    """What boosted trees tell of a class beyond its frequency, from the features of the columns.

    Few rows of numbers and categories are learned better by trees than by networks (Grinsztajn et
    al., *Why do tree-based models still outperform deep learning on typical tabular data?*, arXiv
    2207.08815). :meth:`fit` grows them by scikit-learn's gradient boosting before the first step;
    they are stored as arrays, and no gradient trains them. Before that the evidence is zero.

    Args:
        num_classes: number of classes C.

    Example:
        >>> trees = BoostedTrees(num_classes=3)
        >>> trees(torch.rand(4, 20)).shape
        torch.Size([4, 3])
    """

    features: Tensor
    thresholds: Tensor
    leaves: Tensor
    offset: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        # the nodes of a tree lie level by level, so those below node i are 2 i + 1 and 2 i + 2
        nodes = num_classes, TREES, _INNER
        self.register_buffer("features", torch.zeros(nodes, dtype=torch.int64))
        self.register_buffer("thresholds", torch.zeros(nodes))
        self.register_buffer("leaves", torch.zeros(num_classes, TREES, _LEAVES))
        self.register_buffer("offset", torch.zeros(num_classes))

    def fit(self, columns: npt.NDArray[np.float32], labels: Any, task: Task) -> None:
        """Grow trees, once, on training rows, of which at most 20,000 are drawn; deterministic.

        Args:
            columns: features ``(N, F)``, at least one row.
            labels: class indices ``(N,)``, or 0/1 ``(N, C)`` for multilabel.
            task: "multiclass" or "multilabel", which has the trees of each label by themselves.
        """
        from sklearn.ensemble import GradientBoostingClassifier

        labels = np.asarray(labels)
        if len(labels) > _MOST_ROWS:
            some = np.random.default_rng(0).choice(len(labels), _MOST_ROWS, replace=False)
            columns, labels = columns[some], labels[some]
        options = {"n_estimators": TREES, "max_depth": _DEPTH, "learning_rate": _RATE}
        share = min(_SHARE, _MOST_SAMPLED / len(labels))
        multilabel = task == "multilabel"
        for label in range(labels.shape[1]) if multilabel else [None]:
            target = labels if label is None else labels[:, label]
            known, counts = np.unique(target, return_counts=True)
            if len(known) < 2:
                continue
            model = GradientBoostingClassifier(
                **options, subsample=share, max_features=_SEEN, random_state=0, init="zero"
            ).fit(columns, target)
            two = len(known) == 2  # scikit-learn then has trees of the second class alone
            owners = known[1:] if two else known
            rates = np.log(counts[1:] / counts[0] if two else counts / counts.sum())
            for place, owner in enumerate(owners):
                own = int(owner) if label is None else label
                self.offset[own] = -float(rates[place])
                for number, tree in enumerate(model.estimators_[:, place]):
                    self._keep(own, number, tree.tree_)

    def _keep(self, label: int, number: int, tree: Any) -> None:
        """Store a tree of scikit-learn as a complete one: below a leaf all samples go left."""
        places = {0: 0}  # its nodes by place
        for place in range(_INNER + _LEAVES):
            node = places[place]
            if place >= _INNER:
                self.leaves[label, number, place - _INNER] = _RATE * tree.value[node, 0, 0]
            elif tree.children_left[node] < 0:
                self.thresholds[label, number, place] = 1  # no share or indicator is above it
                places[2 * place + 1] = places[2 * place + 2] = node
            else:
                self.features[label, number, place] = int(tree.feature[node])
                # the next smaller number of float32, above which are the same features
                exact, near = tree.threshold[node], np.float32(tree.threshold[node])
                below = np.nextafter(near, np.float32(-np.inf)) if near > exact else near
                self.thresholds[label, number, place] = float(below)
                places[2 * place + 1] = int(tree.children_left[node])
                places[2 * place + 2] = int(tree.children_right[node])

    def forward(self, columns: Tensor) -> Tensor:
        """Evidence ``(B, C)`` from features ``(B, F)``; zero for a sample without any."""
        seen = columns.float()[:, self.features.flatten()].view(-1, *self.features.shape)
        right = (seen > self.thresholds).long()  # (B, C, T, nodes)
        at = torch.zeros_like(right[..., :1])
        for _ in range(_DEPTH):
            at = 2 * at + 1 + right.gather(-1, at)
        leaves = self.leaves.expand(columns.shape[0], -1, -1, -1).gather(-1, at - _INNER)
        evidence = leaves.sum(dim=(-2, -1)) + self.offset
        return torch.where((columns != 0).any(dim=1, keepdim=True), evidence, 0.0)
