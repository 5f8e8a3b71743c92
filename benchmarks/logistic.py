"""Control: logistic regression on the frozen features, its strength by cross-validation.

    python benchmarks/logistic.py --config openmoji.yaml

Features are those of `cca.py`, of both modalities side by side. The strength is the best of 10 in
five folds of the training rows, by accuracy, or micro F1 of several labels (one regression for each
label, one strength for all), as DINOv2 evaluates linearly. --test opens the test split.
"""

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier

import cca
from epic_pl.cli import quiet_lightning

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
    """Fit on the training rows of a dataset, given by options of ``epic-pl fit``."""
    with quiet_lightning():
        splits, data = cca.features(options, 1, test)
    start = time.perf_counter()
    model, strength = fit(splits["train"])
    return Fitted(model, strength, time.perf_counter() - start, splits, data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--test", action="store_true", help="open the test split")
    parser.add_argument("--folder", type=Path, default=Path("runs/logistic"), help="(%(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    arguments, options = parser.parse_known_args()
    found, result = fit_best(options, arguments.test), {}
    for split in ("val", "test") if arguments.test else ("val",):
        path = arguments.folder / f"predictions_{split}.parquet"
        rows, scores = found.splits[split], found.scores(split)
        metrics = cca.write_predictions(rows, scores, found.data, path)
        result |= {f"{split} {name}": value for name, value in metrics.items()}
    result |= {"C": found.strength, "seconds": found.seconds}
    table = Table(*result)
    table.add_row(*(f"{value:.4g}" for value in result.values()))
    Console().print(table)
    if arguments.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
