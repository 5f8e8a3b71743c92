"""EPIC on visual entailment of OpenMoji images, beside two controls: what `make demo` does.

    python benchmarks/openmoji.py [--folder runs/demo] [options of epic-pl fit]

Stores the features of the frozen encoders, trains and tests three methods, predicts the test split
with EPIC, and draws the attention of its prompts on one sample. Both controls train on the same
features, without any prompt: a linear layer, and one with boundary features and similarity.
`make compare` has all methods, tasks and seeds.
"""

import argparse
import json
import os
import shlex
from pathlib import Path

from epic_pl import Classifier
from epic_pl.cli.main import main as epic_pl
from epic_pl.experiments.compare.plan import choose, plan
from epic_pl.run.epic_cli import quiet_lightning
from epic_pl.utils.assets import OPENMOJI_ATTRIBUTION

# EPIC stores all features that the others read
METHODS = {"EPIC": "EPIC", "frozen_features": "no prompts", "LinearProbe": "linear probe"}
# a fifth of the config's epochs tells the methods apart
EPOCHS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--config", default="openmoji_entailment.yaml")
    parser.add_argument("--folder", type=Path, default=Path("runs/demo"), help="(%(default)s)")
    arguments, overrides = parser.parse_known_args()
    folder: Path = arguments.folder
    options = ["--config", arguments.config, f"--trainer.max_epochs={EPOCHS}"]
    options += [f"--trainer.check_val_every_n_epoch={EPOCHS}", *overrides]
    # a step on a few prompts is no faster on two cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    (epic,) = plan(choose("EPIC", []), 1, options, folder)
    place = f"--trainer.default_root_dir={folder}"
    checkpoint = f"{os.path.relpath(epic.folder)}/checkpoints/last.ckpt"
    trained = [f"--ckpt_path={checkpoint}", place]

    stored = [*options, place]
    step("1/4 Fetch images and encoders; encode and store the features", "cache build", stored)
    runs = ["--methods", ",".join(METHODS), "--variants=demo.yaml", "--seeds=1"]
    runs.append(f"--output={folder}")
    step(f"2/4 Train {EPOCHS} epochs and test", "compare", [*options, *runs])
    step("3/4 Predict the test split with EPIC", "predict", [*options, *trained])
    drawn = ["--count", "1", f"--output={folder}/explanation"]
    step(
        "4/4 Draw the attention of EPIC's prompts", "explain", [checkpoint, *options, place, *drawn]
    )

    Classifier.load(epic.folder).save_pretrained(folder / "model")

    rows = json.loads((folder / "comparison.json").read_text())
    accuracy = {row["method"]: row["mean"] for row in rows if row["metric"] == "accuracy"}
    print("\n== Test accuracy")
    for name, shown in reversed(METHODS.items()):
        print(f"  {shown:<30} {accuracy[name]:.1%}")
    written = sorted(folder.glob("predict/*/predictions.parquet"), key=os.path.getmtime)
    print("\n== Files")
    print(f"  table and plot of the methods  {folder}/comparison.md, comparison.png")
    print(f"  predictions                    {written[-1]}")
    print(f"  attention of the prompts       {folder}/explanation/index.html")
    print(f"  checkpoint and logs of EPIC    {os.path.relpath(epic.folder)}")
    print(f"  EPIC for Classifier.load       {folder}/model")
    print(OPENMOJI_ATTRIBUTION)


def step(title: str, command: str, options: list[str]) -> None:
    """Run a command of epic-pl; a failure ends the demo."""
    argv = [*command.split(), *options]
    print(f"\n== {title}\n$ epic-pl {shlex.join(argv)}", flush=True)
    try:
        with quiet_lightning():
            epic_pl(argv)
    except SystemExit as stop:
        if stop.code:
            raise


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
