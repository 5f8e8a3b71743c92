"""What prompts and layers buy: scores and seconds of EPIC with fewer of them.

All settings train on the same rows with the config's schedule and rates. Held-out rows are fold 0
of `folds.py`, whose tasks these are: no test split is read. Seconds are of one thread, without the
storing of features. The same command continues after a kill. Other options go to `fit`.

    python benchmarks/prompts.py --tasks one_word,icons,FOLDER --seeds 3
"""

import argparse
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from common import build_parser, show
from epic_pl.experiments.compare.plan import Variant, plan
from epic_pl.experiments.compare.statistics import TESTED, paired_difference
from epic_pl.experiments.runs import Run
from epic_pl.experiments.training import store_features
from epic_pl.utils.files import try_read_json
from fine_tuning import drawn, finish, result_of
from folds import options_of

_PROMPTS, _LAYERS = "--model.method.num_prompts", "--model.method.interaction_layers"
_ATTENTION = "controls.attention.AttentionEPIC"
# the reference is first
VARIANTS = [
    Variant("4_prompts_2_layers", "EPIC", (f"{_PROMPTS}=4", f"{_LAYERS}=2")),
    Variant("2_prompts_2_layers", "EPIC", (f"{_PROMPTS}=2", f"{_LAYERS}=2")),
    Variant("1_prompt_2_layers", "EPIC", (f"{_PROMPTS}=1", f"{_LAYERS}=2")),
    Variant("4_prompts_1_layer", "EPIC", (f"{_PROMPTS}=4", f"{_LAYERS}=1")),
    Variant("1_prompt_1_layer", "EPIC", (f"{_PROMPTS}=1", f"{_LAYERS}=1")),
    Variant("4_by_attention", _ATTENTION, (f"{_PROMPTS}=4", f"{_LAYERS}=2")),
]


def main() -> int:
    parser = build_parser(__doc__)
    parser.add_argument("--tasks", default="openmoji,openmoji_entailment,one_word,icons")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--draw", type=int, default=0, help="seed of the tables' texts and labels")
    parser.add_argument("--jobs", type=int, default=2, help="processes, of one thread each")
    parser.add_argument("--folder", type=Path, default=Path("runs/prompts"))
    parser.add_argument("--only-show", action="store_true", help="train nothing")
    arguments, options = parser.parse_known_args()
    tasks = arguments.tasks.split(",")
    runs = {task: runs_of(task, arguments, options) for task in tasks}
    if not arguments.only_show:
        os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        for each in runs.values():
            store_features(each)
        every = [run for each in runs.values() for run in each if run.result is None]
        with ThreadPoolExecutor(arguments.jobs) as pool:
            finish(pool, sorted(every, key=lambda run: run.seed))
    rows = [row for task in tasks for row in compared(Path(task).name, runs[task])]
    show(rows + means(rows), arguments.json)
    return 0


def runs_of(task: str, arguments: argparse.Namespace, options: Sequence[str]) -> list[Run]:
    shared = [*options_of(task, 0, arguments), *options]
    folder = arguments.folder / Path(task).name
    shared.append(f"--cache.folder={folder.resolve()}/features")
    return [
        replace(run, result=try_read_json(run.folder / "result.json"))
        for run in plan(VARIANTS, arguments.seeds, shared, folder)
    ]


def compared(task: str, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """A row for each setting whose runs have all finished."""
    groups = {}
    for variant in VARIANTS:
        own = [run for run in runs if run.name == variant.name]
        if all(try_read_json(run.folder / "result.json") for run in own):
            groups[variant.name] = own
    rows: list[dict[str, Any]] = []
    first = 0.0
    for name, own in groups.items():
        results = [result_of(run) for run in own]
        metric = TESTED[results[0]["task"]][0]
        scores = [100 * result["metrics"][metric] for result in results]
        seconds = float(np.mean([result["processor_s"] for result in results]))
        first = first or seconds
        row = {
            "task": task,
            "setting": name,
            "metric": metric,
            "runs": len(own),
            "score": round(float(np.mean(scores)), 2),
            "seconds": round(seconds, 1),
            "MB": round(float(np.mean([result["peak_memory_mb"] for result in results]))),
        }
        values, others = (
            [drawn({"folder": str(run.folder), "metric": metric}) for run in each]
            for each in (own, groups[VARIANTS[0].name])
        )
        test = paired_difference(values, others)
        row |= {key: round(100 * test[key], 2) for key in ("difference", "low", "high")}
        rows.append(row | {"of its seconds": round(seconds / first, 2)})
    return rows


def means(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over tasks of the settings that have finished on all of them."""
    lines = []
    tasks = {row["task"] for row in rows}
    for variant in VARIANTS:
        own = [row for row in rows if row["setting"] == variant.name]
        if len(own) == len(tasks):
            names = "score", "seconds", "MB", "difference", "of its seconds"
            mean = {name: round(float(np.mean([row[name] for row in own])), 2) for name in names}
            lines.append({"task": "mean", "setting": variant.name, **mean})
    return lines


if __name__ == "__main__":
    sys.exit(main())
