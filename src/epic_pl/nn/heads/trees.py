"""Boosted trees on a table's columns and on components of the pooled features.

Shape legend: B batch, N samples, C classes, G groups of classes, D features of a modality, F
features of a table's columns, T stages.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from epic_pl.nn.pair import Source, where_present
from epic_pl.utils.types import Task

# chosen on tables of a shop and of a rule of columns (benchmarks/columns.py); options of none
STAGES = 100  # each has a tree of each class, or one of all
_MOST_OWN = 20  # classes that have trees of their own
_OUTPUTS = 10  # for which a split of shared trees is chosen
_DEPTH = 3
_RATE = 0.05
_BOUND = 10.0  # of a leaf before the rate
_SEEN = 0.3  # share of the inputs that a split chooses from
_SHARE, _MOST_SAMPLED = 0.5, 2000  # of the rows that a tree sees; the limit is of classes' own
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
    2207.08815). :meth:`fit` grows them before the first step, on the features of the columns and on
    16 principal components of each modality; they are stored as arrays, and no gradient trains
    them. Before that the evidence is zero.

    It is gradient boosting (Friedman, *Greedy Function Approximation*, 2001, algorithms 5 and 6)
    with the regression trees of scikit-learn. Up to 20 classes have trees of their own. More
    classes share trees, in which a leaf has a number for each class, and a split is chosen for
    random projections of their residuals (*SketchBoost*, arXiv 2211.12858). So the cost does not
    grow with their number, and they were more accurate on fabricated tables
    (benchmarks/evidence/decisions.md). A leaf is a quotient whose divisor vanishes for a rare
    class, so its size has a limit.

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
        self.groups = num_classes if num_classes <= _MOST_OWN else 1
        # the nodes of a tree lie level by level, so those below node i are 2 i + 1 and 2 i + 2
        nodes = self.groups, STAGES, _INNER
        self.register_buffer("inputs", torch.zeros(nodes, dtype=torch.int64))
        self.register_buffer("thresholds", torch.zeros(nodes))
        self.register_buffer("leaves", torch.zeros(num_classes, STAGES, _LEAVES))
        self.register_buffer("offset", torch.zeros(num_classes))

    @property
    def num_inputs(self) -> int:
        """Number of the inputs that a tree may read."""
        return self.columns + _COMPONENTS * len(self.components)

    @torch.no_grad()
    def fit(
        self,
        sources: Mapping[str, Source],
        labels: Tensor,
        task: Task,
        stages: Iterable[int] = range(STAGES),
    ) -> None:
        """Grow trees, once, on at least one training row; deterministic.

        Args:
            sources: the sources of the N rows on the CPU; image and text may be left out.
            labels: class indices ``(N,)``, or 0/1 ``(N, C)`` for multilabel.
            task: "multiclass" or "multilabel", which has the logistic loss of each label.
            stages: the numbers of all stages, perhaps with a progress bar.
        """
        part: Any
        for name, part in self.components.items():
            if name in sources:
                features, present = sources[name]
                part.fit(features.float() if present is None else features[present].float())
        rows = self._joined(sources).numpy()
        multilabel = task == "multilabel"
        given = (labels if multilabel else F.one_hot(labels, len(self.offset))).float()
        rates = given.mean(dim=0)
        prior = rates.logit() if multilabel else rates.log()  # infinite if the answer is known
        logits = torch.where(prior.isfinite(), 0, prior).repeat(len(given), 1)
        self.offset.copy_(-torch.where(prior.isfinite(), prior, 0))
        known = int((rates > 0).sum())
        factor = 1 if multilabel else (known - 1) / known
        random = np.random.RandomState(0)
        most = _MOST_SAMPLED if self.groups > 1 else len(rows)
        number = max(1, min(int(_SHARE * len(rows)), most))
        for stage in stages:
            chances = logits.sigmoid() if multilabel else logits.softmax(dim=1)
            parts = given - chances, chances * (1 - chances)
            for group, own in enumerate(torch.arange(len(self.offset)).chunk(self.groups)):
                drawn = random.permutation(len(rows))[:number]
                residuals, weights = (part[drawn][:, own] for part in parts)
                tree = _regression_tree(rows[drawn], residuals.numpy(), random)
                node = torch.from_numpy(tree.apply(rows, check_input=False))
                sums = torch.zeros(2, tree.tree_.node_count, len(own))
                sums[0].index_add_(0, node[drawn], residuals)
                sums[1].index_add_(0, node[drawn], weights)
                values = (factor * sums[0] / sums[1].clamp(min=1e-9)).clamp(-_BOUND, _BOUND)
                logits[:, own] += _RATE * values[node]
                self._keep(group, own, stage, tree.tree_, _RATE * values)

    def _keep(self, group: int, own: Tensor, stage: int, tree: Any, values: Tensor) -> None:
        """Store a tree of scikit-learn as a complete one: both ways from a leaf lead to it."""
        places = {0: 0}  # its nodes by place
        for place in range(_INNER + _LEAVES):
            node = places[place]
            if place >= _INNER:
                self.leaves[own, stage, place - _INNER] = values[node]
            elif tree.children_left[node] < 0:
                places[2 * place + 1] = places[2 * place + 2] = node
            else:
                self.inputs[group, stage, place] = int(tree.feature[node])
                # the next smaller number of float32, above which are the same inputs
                exact, near = tree.threshold[node], np.float32(tree.threshold[node])
                below = np.nextafter(near, np.float32(-np.inf)) if near > exact else near
                self.thresholds[group, stage, place] = float(below)
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
        over = seen - self.thresholds  # (B, G, T, nodes)
        part = (over / _RAMP + 0.5).clamp(0, 1)
        right = torch.where(self.inputs < self.columns, (over > 0).to(part), part)
        reached = torch.ones_like(right[..., :1])
        for depth in range(_DEPTH):
            share = right[..., 2**depth - 1 : 2 ** (depth + 1) - 1]
            ways = [reached * (1 - share), reached * share]
            reached = torch.stack(ways, dim=-1).flatten(-2)
        leaves = self.leaves.reshape(self.groups, -1, STAGES * _LEAVES)  # (G, C / G, leaves)
        told = torch.einsum("bgl,gcl->bgc", reached.flatten(2), leaves)
        evidence = told.flatten(1) + self.offset
        return where_present(evidence, sources["columns"].present) if self.columns else evidence


def _regression_tree(rows: Any, residuals: Any, random: Any) -> Any:
    """A tree of scikit-learn for float32 rows, split for at most 10 projections of residuals."""
    from sklearn.tree import DecisionTreeRegressor

    if residuals.shape[1] > _OUTPUTS:
        residuals = residuals @ random.standard_normal((residuals.shape[1], _OUTPUTS))
    tree = DecisionTreeRegressor(max_depth=_DEPTH, max_features=_SEEN, random_state=random)
    return tree.fit(rows, residuals, check_input=False)
