"""EPIC on visual entailment of OpenMoji pictures, beside two controls: what `make demo` does.

    python benchmarks/openmoji.py [--folder runs/demo] [options of epic-pl fit]

Stores the features of the frozen encoders, trains and tests three methods, predicts the test split
with EPIC, and draws the attention of its prompts on one sample. Each step is an epic-pl command.
The linear probe and EPIC without interaction cannot solve this task: whether a statement is true
of a picture is in neither modality alone. `make compare` has all methods, tasks and seeds.
"""

import argparse
import os
import sys
from pathlib import Path

from epic_pl.assets import OPENMOJI_ATTRIBUTION
from epic_pl.cli import quiet_lightning, run
from epic_pl.evaluation.explain import command as explain
from epic_pl.experiments.compare import command as compare
from epic_pl.experiments.compare.plan import choose, plan
from epic_pl.features import commands as cache

CONFIG = "openmoji_entailment.yaml"
METHODS = "epic,no_interaction,linear_probe"
# a fifth of the config's epochs tells the methods apart
EPOCHS = 4


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--config", default=CONFIG)
    parser.add_argument("--folder", type=Path, default=Path("runs/demo"), help="(%(default)s)")
    arguments, overrides = parser.parse_known_args()
    folder: Path = arguments.folder
    options = ["--config", arguments.config, f"--trainer.max_epochs={EPOCHS}"]
    options += [f"--trainer.check_val_every_n_epoch={EPOCHS}", *overrides]
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    jobs = min(2, cores)
    # for the processes of the runs: a step on a few prompts does not fill two cores
    os.environ.setdefault("OMP_NUM_THREADS", str(cores // jobs))

    say("1/4 Features of the frozen encoders: fetch pictures and encoders, encode, store")
    place = f"--trainer.default_root_dir={folder}"
    with quiet_lightning():
        cache.run(["build", *options, place])
    say(f"2/4 Train {EPOCHS} epochs and test: {METHODS.replace(',', ', ')}")
    more = ["--methods", METHODS, "--seeds", "1", "--jobs", str(jobs), "--output", str(folder)]
    if code := compare.run([*more, *options]):
        return code
    (epic,) = plan(choose("epic", []), 1, options, folder)
    checkpoint = epic.folder / "checkpoints" / "best.ckpt"
    used = [*options, place, "--ckpt_path", str(checkpoint)]
    say("3/4 Predict the test split with EPIC")
    with quiet_lightning():
        cli = run(["predict", *used])
    say("4/4 Draw the attention of EPIC's prompts on one sample")
    with quiet_lightning():
        explain.run([*used, "--count", "1", "--output", str(folder / "explanation")])

    say("Files")
    print(f"  table and plot of the methods  {folder}/comparison.md, comparison.png")
    print(f"  checkpoint of EPIC             {os.path.relpath(checkpoint)}")
    print(f"  predictions                    {cli.trainer.log_dir}/predictions.parquet")
    print(f"  attention of the prompts       {folder}/explanation/index.html")
    print(f"  training curves                tensorboard --logdir {folder}")
    print(OPENMOJI_ATTRIBUTION)
    return 0


def say(step: str) -> None:
    print(f"\n== {step}", flush=True)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.exit(main())
