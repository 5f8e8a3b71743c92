"""Classical controls on the frozen features, which no gradient trains: CCA and logistic regression.

Features are those of the method NoPrompts with the head's boundary: pooled outputs and the mean
tokens that enter the first interaction layer, standardised.

`cca`, regularised and in closed form: with two classes it relates the two modalities over the rows
of the second class, and a row's score is the cosine of its canonical variates, weighted by the
correlations; the threshold is the best one on validation. With more classes it relates both
modalities to the labels, which is regularised discriminant analysis. The best of 12 strengths on
validation counts.

`logistic`: regression on both modalities side by side. The best of 10 strengths in five folds of
the training rows counts, by accuracy, or micro F1 of several labels (one regression for each label,
one strength for all), as DINOv2 evaluates linearly.
"""

import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier

from epic_pl.experiments.options import feature_cache
from epic_pl.module.metrics import compute_metrics
from epic_pl.module.postprocess import fit_thresholds
from epic_pl.run.epic_cli import build, quiet_lightning
from epic_pl.utils.files import try_read_json, write_json

METHODS = ("cca", "logistic")
STRENGTHS = np.logspace(-4, 2, 12)  # the higher the stronger
PENALTIES = np.logspace(-6, 3, 10)  # C of scikit-learn, the higher the weaker
_COMPONENTS = 128
Floats = npt.NDArray[np.float64]


class Rows(NamedTuple):
    """Rows of a split: features ``(N, D)`` of each modality, labels ``(N,)``, and ids."""

    image: Floats
    text: Floats
    labels: npt.NDArray[np.int64]
    ids: list[str]
    images: list[str]


class CCA(NamedTuple):
    """Weights of both modalities, and the threshold on the cosine where there are two classes."""

    weights: tuple[Floats, Floats]
    threshold: float | None = None

    def scores(self, rows: Rows) -> Floats:
        """``(N, C)``; the class with the highest one is the answer."""
        one, other = (part @ w for part, w in zip(rows[:2], self.weights, strict=True))
        if self.threshold is None:
            return np.asarray(one + other)
        cosine = (one * other).sum(1) / np.maximum(_norm(one) * _norm(other), 1e-12)
        return np.stack([np.full_like(cosine, self.threshold), cosine], axis=1)


class Logistic(NamedTuple):
    """Scikit-learn's regression, and the number of classes of the task."""

    model: Any
    num_classes: int

    def scores(self, rows: Rows) -> Floats:
        """Probabilities ``(N, C)``."""
        probabilities = np.zeros((len(rows.ids), self.num_classes))
        columns = self.model.classes_ if rows.labels.ndim == 1 else slice(None)
        probabilities[:, columns] = self.model.predict_proba(_joined(rows))
        return probabilities


def _norm(rows: Floats) -> Floats:
    return np.asarray(np.linalg.norm(rows, axis=1))


def _joined(rows: Rows) -> Floats:
    return np.concatenate([rows.image, rows.text], axis=1)


def fit_logistic(rows: Rows, num_classes: int) -> Logistic:
    """The regression of some rows."""
    model: Any = LogisticRegression(max_iter=200)
    name, scoring = "C", "accuracy"
    if rows.labels.ndim > 1:
        model, name, scoring = OneVsRestClassifier(model), "estimator__C", "f1_micro"
    search = GridSearchCV(model, {name: PENALTIES}, scoring=scoring, cv=5)
    with warnings.catch_warnings():  # classes of fewer rows than folds, weak penalties
        warnings.simplefilter("ignore")
        search.fit(_joined(rows), rows.labels)
    return Logistic(search.best_estimator_, num_classes)


def fit_cca(train: Rows, val: Rows, num_classes: int) -> CCA:
    """CCA of the strength that is best on validation."""
    models = []
    for strength in STRENGTHS:
        model = cca(train, float(strength), num_classes)
        models.append(with_threshold(model, val) if num_classes == 2 else model)
    return max(models, key=lambda model: accuracy(model, val))


def cca(rows: Rows, strength: float, num_classes: int) -> CCA:
    """CCA of the two modalities on the rows of class 1, or of both with the labels."""
    if num_classes == 2:
        chosen = rows.labels == 1
        image, text = rows.image[chosen], rows.text[chosen]
        whiten = [_inverse_root(part, strength) for part in (image, text)]
        cross = whiten[0] @ (image.T @ text / len(image)) @ whiten[1]
        left, correlations, right = np.linalg.svd(cross, full_matrices=False)
        scale = np.sqrt(correlations[:_COMPONENTS])
        weights = whiten[0] @ left[:, :_COMPONENTS], whiten[1] @ right[:_COMPONENTS].T
        return CCA((weights[0] * scale, weights[1] * scale), 0.0)
    both = _joined(rows)
    truth = np.eye(num_classes)[rows.labels]
    gram = both.T @ both / len(both) + strength * np.eye(both.shape[1])
    solved = np.linalg.solve(gram, both.T @ (truth - truth.mean(0)) / len(both))
    width = rows.image.shape[1]
    return CCA((solved[:width], solved[width:]))


def _inverse_root(features: Floats, strength: float) -> Floats:
    covariance = features.T @ features / len(features)
    values, vectors = np.linalg.eigh(covariance + strength * np.eye(len(covariance)))
    return np.asarray(vectors / np.sqrt(values) @ vectors.T)


def with_threshold(model: CCA, rows: Rows) -> CCA:
    """The threshold with the best accuracy on some rows."""
    cosines = model.scores(rows)[:, 1]
    order = np.argsort(cosines)
    truth = rows.labels[order]
    # right below a cut are the false ones before it and the true ones after
    right = np.concatenate([[0], np.cumsum(truth == 0)]) + np.concatenate(
        [np.cumsum(truth[::-1])[::-1], [0]]
    )
    cut = int(right.argmax())
    ends = np.concatenate([[-1.0], cosines[order], [1.0]])
    return model._replace(threshold=float(ends[cut : cut + 2].mean()))


def accuracy(model: CCA, rows: Rows) -> float:
    return float((model.scores(rows).argmax(1) == rows.labels).mean())


def features(options: list[str], epochs: int) -> tuple[dict[str, Rows], Any]:
    """Standardised features of the splits; training rows of several epochs where they are drawn."""
    method = ["--model.method=NoPrompts"]
    module, data, trainer = build([*options, *method, "--model.head.boundary=true"])
    module.eval()
    cache = feature_cache(trainer)
    cache.level = "layers"
    cache.build_stores(trainer, module, data)
    loaders = {name: getattr(data, f"{name}_dataloader")() for name in ("train", "val", "test")}
    found = {
        split: _rows(module.model, loader, epochs if split == "train" else 1)
        for split, loader in loaders.items()
    }
    for side in ("image", "text"):
        known = getattr(found["train"], side)
        mean, std = np.nanmean(known, axis=0), np.nanstd(known, axis=0) + 1e-6
        for split, rows in found.items():  # missing modalities get the mean
            found[split] = rows._replace(
                **{side: np.nan_to_num((getattr(rows, side) - mean) / std)}
            )
    return found, data


@torch.no_grad()
def _rows(model: Any, loader: Any, epochs: int) -> Rows:
    parts: dict[str, list[Any]] = {"image": [], "text": [], "labels": []}
    ids: list[str] = []
    images: list[str] = []
    for batch in _batches(loader, epochs):
        present = model.presence(batch)
        pooled = [state.pool() for state in model.extract(batch, present)]
        for side, each, mask in zip(("image", "text"), pooled, present[:2], strict=True):
            joined = torch.cat([each.output, each.boundary], dim=1).double()
            if mask is not None:
                joined[~mask] = torch.nan
            parts[side].append(joined.numpy())
        parts["labels"].append(batch["labels"].numpy())
        ids += batch["sample_id"]
        images += batch["image_path"]
    return Rows(*(np.concatenate(each) for each in parts.values()), ids, images)


def _batches(loader: Any, epochs: int) -> Iterator[Any]:
    for epoch in range(epochs):
        if epochs > 1:
            loader.sampler.set_epoch(epoch)
        yield from loader


def evaluate(
    method: str, options: list[str], folder: Path, epochs: int = 1
) -> dict[str, Any] | None:
    """Fit a control, write its predictions of the test split, and return its result.

    A finished one is not repeated. CCA is for one label a row, and None with several.

    Args:
        method: of :data:`METHODS`.
        options: of ``epic-pl fit``.
        folder: for predictions and result.
        epochs: of training rows, for data that draws its rows anew.

    Returns:
        ``task``, ``metrics``, and ``seconds`` without the features.
    """
    known: dict[str, Any] | None = try_read_json(folder / "result.json")
    if known is not None:
        return known
    with quiet_lightning():
        splits, data = features(options, epochs if method == "cca" else 1)
    start, train = time.perf_counter(), splits["train"]
    if method == "cca" and train.labels.ndim > 1:
        return None
    model: CCA | Logistic
    if method == "cca":
        model = fit_cca(train, splits["val"], data.num_classes)
    else:
        model = fit_logistic(train, data.num_classes)
    seconds, rows = time.perf_counter() - start, splits["test"]
    path = folder / "predictions.parquet"
    metrics = write_predictions(rows, model.scores(rows), data, path)
    result = {"task": data.task, "metrics": metrics, "seconds": seconds}
    if data.task == "multilabel":
        held_out, tested = (
            (torch.from_numpy(model.scores(each)), torch.from_numpy(each.labels))
            for each in (splits["val"], rows)
        )
        thresholds = fit_thresholds(*held_out)
        metrics |= compute_metrics(data.task, *tested)
        metrics |= compute_metrics(data.task, *tested, thresholds)
        result["thresholds"] = thresholds.tolist()
    write_json(folder / "result.json", result)
    return result


def write_predictions(rows: Rows, scores: Floats, data: Any, path: Path) -> dict[str, float]:
    """Write the predictions of a split; accuracy in all and of each kind, of one label."""
    columns: dict[str, Any] = {"sample_id": rows.ids, "image_path": rows.images}
    names = np.array(data.class_names)
    columns["truth"] = [
        names[label == 1].tolist() if label.ndim else str(names[label]) for label in rows.labels
    ]
    # a cosine and its threshold are no probabilities, but the higher one is the answer
    columns |= {f"probability_{name}": column for name, column in zip(names, scores.T, strict=True)}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    if rows.labels.ndim > 1:
        return {}
    right = scores.argmax(1) == rows.labels
    metrics = {"accuracy": float(right.mean())}
    for kind in getattr(data, "subsets", ()):
        of_kind = [data.subset_of(name) == kind for name in rows.ids]
        metrics[f"accuracy_{kind}"] = float(right[of_kind].mean())
    return metrics
