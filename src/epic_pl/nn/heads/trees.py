"""Boosted trees on a table's columns and on components of the pooled features.

Shape legend: B batch, N samples, C classes, D features of a modality, F features of a table's
columns, T trees of a class.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from epic_pl.nn.pair import Source, where_present
from epic_pl.utils.types import Task

# chosen on tables of a shop and of a rule of columns (benchmarks/columns.py); options of none
TREES = 100
_DEPTH = 3
_RATE = 0.05
_SEEN = 0.3  # share of the inputs that a split chooses from
_SHARE, _MOST_SAMPLED = 0.5, 2000  # of the rows that each tree sees
_COMPONENTS = 16  # of each modality
_FAINT = 0.01  # variance beside that of the first, below which a component is left out
_RAMP = 0.1  # of a component, in standard deviations
_INNER, _LEAVES = 2**_DEPTH - 1, 2**_DEPTH


class Components(nn.Module):
    """The first principal components of features, each of variance 1; zero before :meth:`fit`.

    Args:
        width: number of features D.
    """

    mean: Tensor
    directions: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("directions", torch.zeros(width, _COMPONENTS))

    def fit(self, features: Tensor) -> None:
        """Find the directions of features ``(N, D)`` after standardisation."""
        from sklearn.decomposition import PCA

        number = min(_COMPONENTS, len(features) - 1, features.shape[1])
        if number < 1:
            return
        scale = features.std(dim=0).clamp(min=1e-6)
        pca = PCA(number, svd_solver="covariance_eigh")
        pca.fit((features / scale).double().numpy())
        variance = pca.explained_variance_
        kept = variance > _FAINT * variance[0]
        whitened = pca.components_[kept] / np.sqrt(variance[kept, None])
        self.mean.copy_(features.mean(dim=0))
        self.directions[:, : len(whitened)] = torch.from_numpy(whitened.T) / scale[:, None]

    def forward(self, features: Tensor, present: Tensor | None) -> Tensor:
        """Components ``(B, 16)`` of features ``(B, D)``; zero, the mean, where not present."""
        return where_present((features.to(self.mean) - self.mean) @ self.directions, present)


class BoostedTrees(nn.Module):
    """What boosted trees tell of a class beyond its frequency.

    Few rows of numbers and categories are learned better by trees than by networks (Grinsztajn et
    al., *Why do tree-based models still outperform deep learning on typical tabular data?*, arXiv
    2207.08815). :meth:`fit` grows them by scikit-learn's gradient boosting before the first step,
    on the features of the columns and on 16 principal components of each modality; they are stored
    as arrays, and no gradient trains them. Before that the evidence is zero.

    A sample whose component is close to a threshold goes both ways in part. So rounding, which
    differs between devices and in stored features, changes the answer by little.

    Args:
        widths: number of features D of each source by name.
        num_classes: number of classes C.

    Example:
        >>> trees = BoostedTrees({"image": 8, "text": 6, "columns": 20}, num_classes=3)
        >>> trees({name: Source(torch.rand(4, width)) for name, width in trees.widths.items()})
        tensor([[0., 0., 0.],
                [0., 0., 0.],
                [0., 0., 0.],
                [0., 0., 0.]])
    """

    inputs: Tensor
    thresholds: Tensor
    leaves: Tensor
    offset: Tensor

    def __init__(self, widths: Mapping[str, int], num_classes: int) -> None:
        super().__init__()
        self.widths, self.columns = dict(widths), widths.get("columns", 0)
        self.components = nn.ModuleDict(
            {name: Components(width) for name, width in widths.items() if name != "columns"}
        )
        # the nodes of a tree lie level by level, so those below node i are 2 i + 1 and 2 i + 2
        nodes = num_classes, TREES, _INNER
        self.register_buffer("inputs", torch.zeros(nodes, dtype=torch.int64))
        self.register_buffer("thresholds", torch.zeros(nodes))
        self.register_buffer("leaves", torch.zeros(num_classes, TREES, _LEAVES))
        self.register_buffer("offset", torch.zeros(num_classes))

    @property
    def num_inputs(self) -> int:
        """Number of the inputs that a tree may read."""
        return self.columns + _COMPONENTS * len(self.components)

    @torch.no_grad()
    def fit(self, sources: Mapping[str, Source], labels: Tensor, task: Task) -> None:
        """Grow trees, once, on at least one training row; deterministic.

        Args:
            sources: the sources of the N rows on the CPU; image and text may be left out.
            labels: class indices ``(N,)``, or 0/1 ``(N, C)`` for multilabel.
            task: "multiclass" or "multilabel", which has the trees of each label by themselves.
        """
        from sklearn.ensemble import GradientBoostingClassifier

        part: Any
        for name, part in self.components.items():
            if name in sources:
                features, present = sources[name]
                part.fit(features.float() if present is None else features[present].float())
        rows = self._joined(sources).numpy()
        options = {"n_estimators": TREES, "max_depth": _DEPTH, "learning_rate": _RATE}
        options |= {"subsample": min(_SHARE, _MOST_SAMPLED / len(labels)), "max_features": _SEEN}
        multilabel = task == "multilabel"
        for label in range(labels.shape[1]) if multilabel else [None]:
            target = (labels if label is None else labels[:, label]).numpy()
            known, counts = np.unique(target, return_counts=True)
            if len(known) < 2:
                continue
            model = GradientBoostingClassifier(**options, random_state=0, init="zero")
            model.fit(rows, target)
            two = len(known) == 2  # scikit-learn then has trees of the second class alone
            owners = known[1:] if two else known
            rates = np.log(counts[1:] / counts[0] if two else counts / counts.sum())
            for place, owner in enumerate(owners):
                own = int(owner) if label is None else label
                self.offset[own] = -float(rates[place])
                for number, tree in enumerate(model.estimators_[:, place]):
                    self._keep(own, number, tree.tree_)

    def _keep(self, label: int, number: int, tree: Any) -> None:
        """Store a tree of scikit-learn as a complete one: both ways from a leaf lead to it."""
        places = {0: 0}  # its nodes by place
        for place in range(_INNER + _LEAVES):
            node = places[place]
            if place >= _INNER:
                self.leaves[label, number, place - _INNER] = _RATE * tree.value[node, 0, 0]
            elif tree.children_left[node] < 0:
                places[2 * place + 1] = places[2 * place + 2] = node
            else:
                self.inputs[label, number, place] = int(tree.feature[node])
                # the next smaller number of float32, above which are the same inputs
                exact, near = tree.threshold[node], np.float32(tree.threshold[node])
                below = np.nextafter(near, np.float32(-np.inf)) if near > exact else near
                self.thresholds[label, number, place] = float(below)
                places[2 * place + 1] = int(tree.children_left[node])
                places[2 * place + 2] = int(tree.children_right[node])

    def _joined(self, sources: Mapping[str, Source]) -> Tensor:
        """The inputs of the trees, at most ``(B, F + 32)``: columns, then components."""
        parts = [sources["columns"].features.to(self.offset)] if self.columns else []
        parts += [part(*sources[name]) for name, part in self.components.items() if name in sources]
        return torch.cat(parts, dim=1)

    def forward(self, sources: Mapping[str, Source]) -> Tensor:
        """Evidence ``(B, C)`` from sources of B samples; of a table's rows without a cell, zero.

        In training it is zero, too, since the trees know these rows.
        """
        if self.training:
            rows = len(next(iter(sources.values())).features)
            return self.offset.new_zeros(rows, len(self.offset))
        given = self._joined(sources)
        seen = given[:, self.inputs.flatten()].view(-1, *self.inputs.shape)
        over = seen - self.thresholds  # (B, C, T, nodes)
        part = (over / _RAMP + 0.5).clamp(0, 1)
        right = torch.where(self.inputs < self.columns, (over > 0).to(part), part)
        reached = torch.ones_like(right[..., :1])
        for depth in range(_DEPTH):
            share = right[..., 2**depth - 1 : 2 ** (depth + 1) - 1]
            ways = [reached * (1 - share), reached * share]
            reached = torch.stack(ways, dim=-1).flatten(-2)
        evidence = (reached * self.leaves).sum(dim=(-2, -1)) + self.offset
        return where_present(evidence, sources["columns"].present) if self.columns else evidence
