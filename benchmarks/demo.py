"""EPIC tells whether statements about composed images are true: what `make demo` does.

    python benchmarks/demo.py [--folder runs/demo] [--rows 4500] [options of epic-pl fit]

Draws scenes of OpenMoji into a table with a statement a row, stores the features of the frozen
encoders, trains and tests three methods, predicts the test split, and draws a page that shows where
EPIC has found each part of a statement. The controls are a network on the pooled features of both
modalities, and of each alone: half of the statements are true, whatever they or the image say.
"""

import argparse
import csv
import os
import shlex
from pathlib import Path

import pyarrow.parquet as pq

from controls.scenes import KINDS, SceneGenerator, compose, vocabulary
from epic_pl import Classifier
from epic_pl.cli.main import main as epic_pl
from epic_pl.experiments.compare.plan import add_alone, choose, plan
from epic_pl.run.epic_cli import quiet_lightning
from epic_pl.utils.assets import OPENMOJI_ATTRIBUTION

CONTROL = "LateFusionMLP"
SHOWN = {
    f"{CONTROL}-text": "statement alone",
    f"{CONTROL}-image": "image alone",
    CONTROL: "network on pooled features",
    "EPIC": "EPIC",
}
EPOCHS = 8
SIDE = 112
SCENES = {"val": 150, "test": 500}
ON_PAGE = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--folder", type=Path, default=Path("runs/demo"), help="(%(default)s)")
    parser.add_argument("--rows", type=int, default=4500, help="for training (%(default)s)")
    arguments, overrides = parser.parse_known_args()
    folder: Path = arguments.folder
    # a step on a few prompts is no faster on two cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    print("\n== 1/4 Draw scenes and statements")
    kinds = write_table(folder / "scenes", arguments.rows)
    options = ["--config", "scenes.yaml", f"--data.table={folder}/scenes/table.csv"]
    epochs = [f"--trainer.{name}={EPOCHS}" for name in ("max_epochs", "check_val_every_n_epoch")]
    options += [*epochs, *overrides]
    variants = add_alone(choose(f"EPIC,{CONTROL}", []), CONTROL)
    runs = {run.name: run for run in plan(variants, 1, options, folder)}
    place = f"--trainer.default_root_dir={folder}"
    checkpoint = f"{os.path.relpath(runs['EPIC'].folder)}/checkpoints/last.ckpt"

    compared = ["--methods", f"EPIC,{CONTROL}", "--alone", CONTROL, "--seeds=1"]
    compared.append(f"--output={folder}")
    step("2/4 Fetch and run encoders once, then train and test", "compare", [*options, *compared])
    trained = [*options, f"--ckpt_path={checkpoint}", place]
    step("3/4 Predict the test split with EPIC", "predict", trained)
    ids = [name for name in kinds if kinds[name][0] == "test" and kinds[name][1] == "relation"]
    page = [f"--samples={','.join(ids[:ON_PAGE])}", f"--output={folder}/explanation"]
    step("4/4 Draw where EPIC looks", "explain", [checkpoint, *options, place, *page])
    Classifier.load(runs["EPIC"].folder).save_pretrained(folder / "model")

    print("\n== Accuracy on test statements, whose pairs of things are not in training; one seed")
    print(f"  {'':<28}" + "".join(f"{name:>13}" for name in ("all", *KINDS)))
    for name, shown in SHOWN.items():
        scores = accuracies(runs[name].folder / "predictions.parquet", kinds)
        print(f"  {shown:<28}" + "".join(f"{score:>13.1%}" for score in scores))
    written = sorted(folder.glob("predict/*/predictions.parquet"), key=os.path.getmtime)
    print("\n== Files")
    print(f"  table and plot of the methods  {folder}/comparison.md, comparison.png")
    print(f"  predictions                    {written[-1]}")
    print(f"  checkpoint and logs of EPIC    {os.path.relpath(runs['EPIC'].folder)}")
    print(f"  EPIC for Classifier.load       {folder}/model")
    print(f"  statements, answers, and where each part was found: {folder}/explanation/index.html")
    print(OPENMOJI_ATTRIBUTION)


def write_table(folder: Path, rows: int) -> dict[str, tuple[str, str]]:
    """Write images, and `table.csv` with a statement a row; returns split and kind by id."""
    things = vocabulary()
    generator = SceneGenerator([thing.name.lower() for thing in things], seed=0)
    kinds: dict[str, tuple[str, str]] = {}
    (folder / "images").mkdir(parents=True, exist_ok=True)
    with (folder / "table.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "image", "statement", "label", "kind", "split"])
        # in test no pair of things is that of a training image or statement
        for split, number in {"train": rows // len(KINDS), **SCENES}.items():
            for index in range(number):
                scene = generator.scene("pairs" if split == "test" else split, index)
                image = f"images/{split}-{index}.png"
                codes = [things[thing].code for thing in scene.arrangement.objects]
                compose(codes, scene.arrangement.boxes, SIDE).save(folder / image)
                for each, said in enumerate(scene.statements):
                    name = f"{split}-{index}-{each}"
                    kinds[name] = split, said.kind
                    truth = str(said.truth).lower()
                    writer.writerow([name, image, said.text, truth, said.kind, split])
    return kinds


def accuracies(path: Path, kinds: dict[str, tuple[str, str]]) -> list[float]:
    """The accuracy of predictions on all test statements, and on those of each kind."""
    table = pq.read_table(path)
    right: dict[str, list[bool]] = {kind: [] for kind in KINDS}
    columns = (table[name].to_pylist() for name in ("sample_id", "truth", "probability_true"))
    for name, truth, probability in zip(*columns, strict=True):
        right[kinds[name][1]].append((probability > 0.5) == (truth == "true"))
    every = [hit for hits in right.values() for hit in hits]
    return [sum(hits) / len(hits) for hits in (every, *right.values())]


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
