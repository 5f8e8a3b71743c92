"""What a table's columns tell a model: their score alone, and the importance of each.

Shape legend: N samples, F features, C classes, R permutations.
"""

from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from epic_pl.data import ImageTextDataModule
from epic_pl.module import EPICModule
from epic_pl.module.evaluator import Evaluator
from epic_pl.module.metrics import main_metric_sums
from epic_pl.module.outputs import SplitOutputs
from epic_pl.report.passes import tested_batches
from epic_pl.report.scores import headline, resampled_scores

PERMUTATIONS = 5


def column_report(
    trainer: L.Trainer,
    module: EPICModule,
    data: ImageTextDataModule,
    evaluator: Evaluator,
    outputs: SplitOutputs,
) -> dict[str, Any]:
    """The main score of the columns alone, and permutation importance of each column.

    Importance (L. Breiman, *Random Forests*, 2001) is what the score loses if the column's cells
    are exchanged among samples, the mean of :data:`PERMUTATIONS` times, with the 95% interval of a
    bootstrap over samples.
    """
    rank_zero_info("Report: importance of columns")
    alone, permuted = _logits(trainer, module, data)
    score = headline(evaluator, outputs._replace(logits=alone))
    rows = [
        {"column": name, **_importance(evaluator, outputs, logits)}
        for name, logits in permuted.items()
    ]
    return {"alone": score, "importance": sorted(rows, key=lambda row: -row["importance"])}


@torch.inference_mode()
def _logits(
    trainer: L.Trainer, module: EPICModule, data: ImageTextDataModule
) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits ``(N, C)`` of columns alone, and ``(R, N, C)`` with each column's cells exchanged.

    Encoders run once for each batch.
    """
    known, dataset = data.column_preprocessing, data.dataset("test")
    cells = [dataset.row(row).get("cells") or {} for row in range(len(dataset))]
    features = torch.from_numpy(known.encode(cells))  # (N, F)
    owners = np.array([known.owners[name] for name, _ in known.features])
    orders = [np.random.default_rng(draw).permutation(len(cells)) for draw in range(PERMUTATIONS)]
    alone: list[Tensor] = []
    permuted: dict[str, list[Tensor]] = {name: [] for name in known.names}
    start = 0
    for batch, logits in tested_batches(trainer, module):
        own = batch["columns"]
        with trainer.precision_plugin.forward_context():
            states = module.model.extract(batch, module.model.presence(batch))
        none = torch.zeros(len(own), dtype=torch.bool, device=own.device)
        alone.append(logits(image_present=none, text_present=none))
        others = [features[order[start : start + len(own)]].to(own) for order in orders]
        for name, made in permuted.items():
            at = torch.from_numpy(owners == name).to(own.device)
            changed = [torch.where(at, other, own) for other in others]
            made.append(torch.stack([logits(states=states, columns=each) for each in changed]))
        start += len(own)
    return torch.cat(alone), {name: torch.cat(made, dim=1) for name, made in permuted.items()}


def _importance(evaluator: Evaluator, outputs: SplitOutputs, permuted: Tensor) -> dict[str, float]:
    sums = [main_metric_sums(evaluator.predict(outputs.logits), outputs.labels)]
    sums += [main_metric_sums(evaluator.predict(logits), outputs.labels) for logits in permuted]
    scores = resampled_scores(torch.stack(sums).double().numpy())  # (1 + R, 1 + D)
    lost, *draws = scores[0] - scores[1:].mean(axis=0)
    low, high = np.percentile(draws, [2.5, 97.5])
    return {"importance": float(lost), "low": float(low), "high": float(high)}
