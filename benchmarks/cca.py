"""Closed-form control: regularised CCA on the frozen features, without any gradient.

    python benchmarks/cca.py --config scenes.yaml --data.rows 10000

Features are those of the method `no_prompts` with the head's boundary: pooled outputs and the mean
tokens that enter the first interaction layer, standardised. With two classes, CCA relates the two
modalities over the rows of the second class, and a row's score is the cosine of its canonical
variates, weighted by the correlations; the threshold is the best one on validation. With more
classes, CCA relates both modalities to the labels, which is regularised discriminant analysis. The
regularisation is chosen among 12 strengths on validation. --test opens the test split.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from rich.console import Console
from rich.table import Table

from epic_pl.cli.epic_cli import quiet_lightning, run
from epic_pl.experiments.options import feature_cache

STRENGTHS = np.logspace(-4, 2, 12)
_COMPONENTS = 128
Floats = npt.NDArray[np.float64]


class Rows(NamedTuple):
    """Rows of a split: features ``(N, D)`` of each modality, labels ``(N,)``, and ids."""

    image: Floats
    text: Floats
    labels: npt.NDArray[np.int64]
    ids: list[str]
    images: list[str]


class Model(NamedTuple):
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


def _norm(rows: Floats) -> Floats:
    return np.asarray(np.linalg.norm(rows, axis=1))


def fit(rows: Rows, strength: float, num_classes: int) -> Model:
    """CCA of the two modalities on the rows of class 1, or of both with the labels."""
    if num_classes == 2:
        chosen = rows.labels == 1
        image, text = rows.image[chosen], rows.text[chosen]
        whiten = [_inverse_root(part, strength) for part in (image, text)]
        cross = whiten[0] @ (image.T @ text / len(image)) @ whiten[1]
        left, correlations, right = np.linalg.svd(cross, full_matrices=False)
        scale = np.sqrt(correlations[:_COMPONENTS])
        weights = whiten[0] @ left[:, :_COMPONENTS], whiten[1] @ right[:_COMPONENTS].T
        return Model((weights[0] * scale, weights[1] * scale), 0.0)
    both = np.concatenate([rows.image, rows.text], axis=1)
    truth = np.eye(num_classes)[rows.labels]
    gram = both.T @ both / len(both) + strength * np.eye(both.shape[1])
    solved = np.linalg.solve(gram, both.T @ (truth - truth.mean(0)) / len(both))
    width = rows.image.shape[1]
    return Model((solved[:width], solved[width:]))


def _inverse_root(features: Floats, strength: float) -> Floats:
    covariance = features.T @ features / len(features)
    values, vectors = np.linalg.eigh(covariance + strength * np.eye(len(covariance)))
    return np.asarray(vectors / np.sqrt(values) @ vectors.T)


def with_threshold(model: Model, rows: Rows) -> Model:
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


def accuracy(model: Model, rows: Rows) -> float:
    return float((model.scores(rows).argmax(1) == rows.labels).mean())


def features(options: list[str], epochs: int, test: bool) -> tuple[dict[str, Rows], Any]:
    """Standardised features of the splits; training rows of several epochs where they are drawn."""
    method = ["--model.method=no_prompts", "--model.method_options=null"]
    cli: Any = parse(["fit", *options, *method, "--model.head.boundary=true"])
    cli.build()
    module, data, trainer = cli.model.eval(), cli.datamodule, cli.trainer
    cache = feature_cache(trainer)
    cache.level = "layers"
    cache.build_stores(trainer, module, data)
    loaders = {"train": data.train_dataloader(), "val": data.val_dataloader()}
    if test:
        loaders["test"] = data.test_dataloader()
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
        pooled = model.pool(*model.extract(batch, present))
        for side, each, mask in zip(("image", "text"), pooled, present, strict=True):
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


class CCAResult(NamedTuple):
    """The model that is best on validation, its strength and accuracy there, and the rows.

    ``seconds`` are those of all strengths, without the features.
    """

    model: Model
    strength: float
    val: float
    seconds: float
    splits: dict[str, Rows]
    data: Any


def fit_best(options: list[str], epochs: int = 1, test: bool = False) -> CCAResult | None:
    """Fit with every strength, and keep the best on validation; None of several labels a row.

    Args:
        options: of ``epic-pl fit``.
        epochs: of training rows, for data that draws its rows anew.
        test: read the test split too.
    """
    with quiet_lightning():
        splits, data = features(options, epochs, test)
    if splits["train"].labels.ndim > 1:
        return None
    start, models = time.perf_counter(), []
    for strength in STRENGTHS:
        model = fit(splits["train"], float(strength), data.num_classes)
        if data.num_classes == 2:
            model = with_threshold(model, splits["val"])
        models.append((accuracy(model, splits["val"]), float(strength), model))
    best, strength, model = max(models, key=lambda each: each[0])
    seconds = time.perf_counter() - start
    return CCAResult(model, strength, best, seconds, splits, data)


def write_predictions(rows: Rows, scores: Floats, data: Any, path: Path) -> dict[str, float]:
    """Write the predictions of a split, and return its main metric, in all and of each kind."""
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
        said = scores > 0.5
        hits = (said & (rows.labels == 1)).sum()
        return {"f1_micro": float(2 * hits / max(1, said.sum() + rows.labels.sum()))}
    right = scores.argmax(1) == rows.labels
    metrics = {"accuracy": float(right.mean())}
    for kind in data.subsets:
        of_kind = [data.subset_of(name) == kind for name in rows.ids]
        metrics[f"accuracy_{kind}"] = float(right[of_kind].mean())
    return metrics


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--epochs", type=int, default=1, help="of training rows (%(default)s)")
    parser.add_argument("--test", action="store_true", help="open the test split")
    parser.add_argument("--folder", type=Path, default=Path("runs/cca"), help="(%(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    arguments, options = parser.parse_known_args()
    if (found := fit_best(options, arguments.epochs, arguments.test)) is None:
        raise SystemExit("CCA is for one label a row; logistic.py takes several.")
    result = {"strength": found.strength, "val": found.val}
    if arguments.test:
        rows = found.splits["test"]
        path = arguments.folder / "predictions.parquet"
        metrics = write_predictions(rows, found.model.scores(rows), found.data, path)
        result |= {f"test {name}": value for name, value in metrics.items()}
    table = Table(*result)
    table.add_row(*(f"{value:.4g}" for value in result.values()))
    Console().print(table)
    if arguments.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
