"""Control: logistic regression on the frozen features, its strength by cross-validation.

    python benchmarks/folds.py --methods logistic,epic

Features are those of `cca.py`, of both modalities side by side. The strength is the best of 10 in
five folds of the training rows, by accuracy, or micro F1 of several labels (one regression for each
label, one strength for all), as DINOv2 evaluates linearly.
"""

import time
import warnings
from typing import Any, NamedTuple

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier

import cca
from epic_pl.cli.epic_cli import quiet_lightning

STRENGTHS = np.logspace(-6, 3, 10)  # C of scikit-learn, the higher the weaker the penalty
_FOLDS = 5
_ITERATIONS = 200


class Fitted(NamedTuple):
    """The regression, its strength, and the rows; ``seconds`` are without the features."""

    model: Any
    strength: float
    seconds: float
    splits: dict[str, cca.Rows]
    data: Any

    def scores(self, split: str) -> cca.Floats:
        """Probabilities ``(N, C)``."""
        rows = self.splits[split]
        probabilities = np.zeros((len(rows.ids), self.data.num_classes))
        columns = self.model.classes_ if rows.labels.ndim == 1 else slice(None)
        probabilities[:, columns] = self.model.predict_proba(_joined(rows))
        return probabilities


def _joined(rows: cca.Rows) -> cca.Floats:
    return np.concatenate([rows.image, rows.text], axis=1)


def fit(rows: cca.Rows) -> tuple[Any, float]:
    """The regression of some rows, and its strength."""
    model: Any = LogisticRegression(max_iter=_ITERATIONS)
    name, scoring = "C", "accuracy"
    if rows.labels.ndim > 1:
        model, name, scoring = OneVsRestClassifier(model), "estimator__C", "f1_micro"
    search = GridSearchCV(model, {name: STRENGTHS}, scoring=scoring, cv=_FOLDS)
    with warnings.catch_warnings():  # classes of fewer rows than folds, weak penalties
        warnings.simplefilter("ignore")
        search.fit(_joined(rows), rows.labels)
    return search.best_estimator_, float(search.best_params_[name])


def fit_best(options: list[str], test: bool = False) -> Fitted:
    """Fit on the training rows of a dataset, given by options of ``epic-pl fit``.

    Args:
        options: of ``epic-pl fit``.
        test: read the test split too.
    """
    with quiet_lightning():
        splits, data = cca.features(options, 1, test)
    start = time.perf_counter()
    model, strength = fit(splits["train"])
    return Fitted(model, strength, time.perf_counter() - start, splits, data)
