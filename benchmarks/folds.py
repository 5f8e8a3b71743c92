"""Options judged where no test sample is: cross-validation over the rows outside of the test split.

What the defaults of the OpenMoji configs were chosen by (docs/results.md); other options go to fit:

    python benchmarks/folds.py --config openmoji.yaml --seeds 2
    python benchmarks/folds.py --config openmoji.yaml --seeds 2 --model.class_name_scale 0
"""

import argparse
import json
from pathlib import Path

import numpy as np

from epic_pl.cli import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--config", default="openmoji.yaml")
    parser.add_argument("--folds", default="0,1,2", help="three are a cut, the next three another")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--folder", default="runs/folds")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    arguments, overrides = parser.parse_known_args()
    folds = [int(fold) for fold in arguments.folds.split(",")]
    accuracies = np.array(
        [
            [
                accuracy(arguments.config, fold, seed, Path(arguments.folder), overrides)
                for seed in range(arguments.seeds)
            ]
            for fold in folds
        ]
    )
    for fold, values in zip(folds, accuracies, strict=True):
        print(f"fold {fold}: {' '.join(f'{value:.1f}' for value in values)}")
    print(f"mean of {accuracies.size}: {accuracies.mean():.1f}")
    if arguments.json:
        print(json.dumps({"folds": folds, "accuracy": accuracies.tolist()}))


def accuracy(config: str, fold: int, seed: int, folder: Path, overrides: list[str]) -> float:
    """Of the last epoch on a fold that training has not seen, in percent."""
    options = ["--config", config, f"--data.fold={fold}", f"--seed_everything={seed}"]
    # the last epoch counts, as in the OpenMoji configs
    options += [
        "--checkpoint.monitor=null",
        "--early_stopping.patience=1000",
        f"--trainer.default_root_dir={folder}",
    ]
    cli = run(["fit", *options, *overrides])
    [scores] = cli.trainer.test(cli.model, datamodule=cli.datamodule)
    return 100 * scores["test/accuracy"]


if __name__ == "__main__":
    main()
