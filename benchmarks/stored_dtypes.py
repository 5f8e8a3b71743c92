"""Probabilities from stored features of each dtype, compared with those from live encoders.

Takes the options of ``epic-pl test``, of a task with one class a sample. Stores are temporary.
"""

import itertools
import tempfile
from typing import Any, get_args

import torch
from torch import Tensor

from common import build_parser, show
from epic_pl.features.store.spec import StoredDtype
from epic_pl.module.callbacks import FeatureCache
from epic_pl.run.epic_cli import build_trained


@torch.inference_mode()
def main() -> None:
    arguments, options = build_parser(__doc__).parse_known_args()
    module, data, _ = build_trained(options)
    data.setup("test")

    def outputs() -> tuple[Tensor, Tensor]:
        """Probabilities ``(N, C)`` and labels ``(N,)`` of the test split."""
        parts = []
        for batch in data.test_dataloader():
            batch = module.transfer_batch_to_device(batch, module.device, 0)
            parts.append((module.postprocessor(module(batch).logits).cpu(), batch["labels"].cpu()))
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])

    live, labels = outputs()
    rows = [{"level": "off", "dtype": "-"} | compare(live, live, labels)]
    for level, dtype in itertools.product(module.model.cache_levels, get_args(StoredDtype)):
        with tempfile.TemporaryDirectory() as folder:
            FeatureCache(level, dtype, folder).fill(module, data, "test")
            rows.append({"level": level, "dtype": dtype} | compare(outputs()[0], live, labels))
            data.use_features(None)
    show(rows, arguments.json)


def compare(stored: Tensor, live: Tensor, labels: Tensor) -> dict[str, Any]:
    """Differences of probabilities ``(N, C)``, rows whose class differs, and accuracy."""
    change, classes = (stored - live).abs(), stored.argmax(1)
    return {
        "largest": float(f"{change.max():.2g}"),
        "mean": float(f"{change.mean():.2g}"),
        "changed": int((classes != live.argmax(1)).sum()),
        "accuracy": round((classes == labels).float().mean().item(), 4),
    }


if __name__ == "__main__":
    main()
