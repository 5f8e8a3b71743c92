"""What EPIC loses where modalities are absent at test, trained with and without modality dropout.

Fits the fine-grained OpenMoji task through the command line and reads `epic-pl test --report`. Of
those that lose a modality half lose the text, half the picture, nobody both:

    python benchmarks/absent.py --seeds 3 --json
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from epic_pl.cli import run
from epic_pl.comparison.plan import parsed_options


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--config", default="openmoji.yaml")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--dropout", default="0.8", help="probability to lose one in training")
    parser.add_argument("--folder", default="runs/absent", help="of runs and reports")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON at the end")
    arguments, overrides = parser.parse_known_args()
    dropout = f"--model.modality_dropout={arguments.dropout}"
    # a complete sample is seen in a fifth of them, one without its text in two fifths
    shipped = parsed_options(["--config", arguments.config, *overrides])
    twice = [
        f"--trainer.max_epochs={2 * shipped['trainer']['max_epochs']}",
        "--early_stopping.patience=1000",
    ]
    trainings = {
        "as shipped": [],
        f"modality dropout {arguments.dropout}": [dropout],
        "and a missing-aware head": [dropout, "--model.missing_aware_head=true"],
        "and twice the epochs": [dropout, "--model.missing_aware_head=true", *twice],
    }
    rows = []
    for number, (training, options) in enumerate(trainings.items()):
        runs = [
            accuracies(
                arguments.config,
                seed,
                Path(arguments.folder) / f"{number}-{seed}",
                [*options, *overrides],
            )
            for seed in range(arguments.seeds)
        ]
        for condition in runs[0]:
            values = [100 * each[condition] for each in runs]
            rows.append(
                {
                    "training": training,
                    "condition": condition,
                    "accuracy": float(np.mean(values)),
                    "std": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0,
                }
            )
    show(rows)
    if arguments.json:
        print(json.dumps(rows))


def accuracies(config: str, seed: int, root: Path, overrides: list[str]) -> dict[str, float]:
    """Test accuracy of one run by what is absent."""
    options = ["--config", config, f"--seed_everything={seed}"]
    options += [f"--trainer.default_root_dir={root}", *overrides]
    fitted = run(["fit", *options])
    best = fitted.trainer.checkpoint_callback.best_model_path
    report = ["--report", str(root / "report"), "--report.robustness=false"]
    run(["test", *options, "--ckpt_path", best, *report])
    content = json.loads((root / "report" / "report.json").read_text())
    return {row["condition"]: row["accuracy"] for row in content["absence"]}


def show(rows: list[dict[str, Any]]) -> None:
    table = Table("trained", "absent at test", "accuracy %", "lost, in points", "below as shipped")
    whole: dict[str, float] = {}
    shipped = rows[0]["accuracy"]  # of complete samples
    for row in rows:
        before = whole.setdefault(row["training"], row["accuracy"])
        table.add_row(
            row["training"],
            row["condition"],
            f"{row['accuracy']:.1f} ± {row['std']:.1f}",
            f"{before - row['accuracy']:.1f}",
            f"{shipped - row['accuracy']:.1f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
