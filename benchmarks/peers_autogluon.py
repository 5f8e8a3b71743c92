"""One training of AutoGluon MultiModal for `peers.py`, in AutoGluon's own environment.

Takes a JSON file with what to do, and writes what came out beside it. Only this file may import
AutoGluon, and nothing of epic_pl.
"""

import json
import os
import statistics
import sys
import time
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import timm
import torch
from autogluon.multimodal import MultiModalPredictor
from lightning.pytorch.callbacks import timer
from timm.models import load_checkpoint, register_model
from timm.models.vision_transformer import checkpoint_filter_fn

_PROBED = 64  # rows of which the time of an epoch is estimated
_BATCH = 8  # rows of a step, by default
_CALLS = 10
_stamps: list[float] = []


def process_seconds() -> float:
    """What Lightning's timer calls after each batch, so that the budget is of processor time."""
    _stamps.append(time.process_time())
    return _stamps[-1]


@register_model
def peers_dinov2(pretrained: bool = True, **options: Any) -> torch.nn.Module:
    """DINOv2-S with the weights and at the size that the request names.

    AutoGluon takes the size of a model that is registered, and the package has that of 518 pixels.
    """
    size = REQUEST["image_size"]
    overlay = {"input_size": (3, size, size)}
    model: torch.nn.Module = timm.create_model(
        "vit_small_patch14_dinov2", img_size=size, pretrained_cfg_overlay=overlay, num_classes=0
    )
    weights = Path(REQUEST["image_encoder"]) / "model.safetensors"
    load_checkpoint(model, str(weights), filter_fn=checkpoint_filter_fn)
    model.reset_classifier(options["num_classes"])
    return model


def fit(rows: pd.DataFrame, epochs: int, seconds: int, path: Path) -> MultiModalPredictor:
    """A predictor trained on rows; the schedule of its learning rate lasts some epochs."""
    options = {
        "model.names": ["timm_image", "hf_text", "fusion_mlp"],
        "model.timm_image.checkpoint_name": peers_dinov2.__name__,
        "model.hf_text.checkpoint_name": REQUEST["text_encoder"],
        "model.hf_text.pooling_mode": "mean",
        "model.hf_text.text_trivial_aug_maxscale": 0.0,  # it would need nltk and its data
        "env.num_gpus": 0,
        "env.num_workers": 0,  # all in this process, whose time is measured
        "env.num_workers_inference": 0,
        "optim.max_epochs": epochs,
    }
    predictor = MultiModalPredictor(label="label", path=str(path), verbosity=1)
    return predictor.fit(
        rows,
        column_types={"image": "image_path", "text": "text"},
        hyperparameters=options | REQUEST["options"],
        time_limit=seconds,
        seed=REQUEST["seed"],
    )


def main() -> None:
    torch.set_num_threads(1)
    timer.time = SimpleNamespace(monotonic=process_seconds)
    folder = Path(sys.argv[1]).parent
    train, test = (
        pd.read_csv(REQUEST[split], keep_default_na=False) for split in ("train", "test")
    )
    each_class = train.groupby("label").head(1).index
    first = pd.concat([train.loc[each_class], train.drop(each_class)]).head(_PROBED)
    fit(first, 1, 3600, folder / "probe")
    batch = statistics.median(b - a for a, b in pairwise(_stamps) if b - a > 1e-2)
    results = []
    for budget in REQUEST["budgets"]:
        epochs = max(1, round(budget / (batch * len(train) / _BATCH)))
        results.append(measure(train, test, epochs, budget, folder / f"model-{len(results)}"))
    (folder / "result.json").write_text(json.dumps({"runs": results}))


def measure(
    train: pd.DataFrame, test: pd.DataFrame, epochs: int, budget: float, path: Path
) -> dict[str, Any]:
    """One training in a budget of processor seconds; its probabilities and costs."""
    begin = time.process_time()
    predictor = fit(train, epochs, round(budget), path)
    used = time.process_time() - begin
    asked = test.drop(columns="label")
    probabilities = predictor.predict_proba(asked)
    milliseconds = []
    for _ in range(_CALLS + 1):  # the first warms up
        begin = time.process_time()
        predictor.predict_proba(asked.iloc[:1])
        milliseconds.append(1000 * (time.process_time() - begin))
    kept = (file for file in path.rglob("*") if file.is_file())
    return {
        "classes": [str(name) for name in probabilities.columns],
        "probabilities": probabilities.to_numpy().tolist(),
        "truth": [str(label) for label in test["label"]],
        "seconds": used,
        "epochs": epochs,
        "latency_ms": statistics.median(milliseconds[1:]),
        "megabytes": sum(file.stat().st_size for file in kept) / 1e6,
    }


if __name__ == "__main__":
    REQUEST = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    main()
