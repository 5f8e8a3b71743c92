"""The figures of docs/after_training.md, on tables in which something is planted.

    python benchmarks/after_training.py errors    # wrong labels in 5% of the rows, by regression
    python benchmarks/after_training.py runs      # the same by the runs of a comparison
    python benchmarks/after_training.py next      # labels by smallest margin, or at random
    python benchmarks/after_training.py drift     # emoji of another drawer among the images

Rows are emoji with their image, name and category, and all models are `LateFusionMLP`. Each part
takes two to ten minutes on one core and prints its rows.
"""

import random
import shutil
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from common import build_parser, show
from epic_pl import Classifier
from epic_pl.data.datasets.openmoji import LEFT_OUT
from epic_pl.data.inspection.init import write_config
from epic_pl.utils.assets import fetch_openmoji, load_emoji
from epic_pl.utils.assets.cached import cached_folder
from epic_pl.utils.assets.openmoji import draw_svg
from tables import write_csv

sys.path.append(str(Path(__file__).parents[1] / "examples" / "after_training"))

import drift
import label_errors
import label_errors_of_runs
import label_next

SIZE = 112
PLANTED = 0.05
# Twemoji, whose graphics are under CC BY 4.0
OTHER_DRAWER = "@twemoji/svg@15.0.0"
OPTIONS = {"cache.level": "layers", "trainer.enable_progress_bar": False}

Table = dict[str, list[str]]


def main() -> None:
    parser = build_parser(__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--folder", type=Path, default=Path("runs/after_training"))
    parser.add_argument("--seeds", type=int, default=0, help="the part's own number if 0")
    given = parser.parse_args()
    part, seeds = PARTS[given.part]
    show(part(given.folder / given.part, given.seeds or seeds), given.json)


def emoji_table() -> Table:
    """Image, name and category of all emoji, in random order, and a split by rows."""
    images = fetch_openmoji(SIZE).resolve()
    rows = [each for each in load_emoji() if each.category not in LEFT_OUT]
    random.Random(0).shuffle(rows)
    parts = ["test", "test", *["train"] * 8]
    return {
        "code": [each.code for each in rows],
        "image": [str(images / f"{each.code}.png") for each in rows],
        "name": [each.name.lower() for each in rows],
        "category": [each.category for each in rows],
        "split": [parts[index % len(parts)] for index in range(len(rows))],
    }


def train(
    folder: Path, table: Table, text: str = "name", seed: int = 0
) -> tuple[Classifier, float]:
    """A classifier, and its accuracy on the test rows."""
    write_csv(folder / "table.csv", table)
    columns = {"image": "image", "text": text, "label": "category", "split": "split"}
    given: dict[str, Any] = {"method": "LateFusionMLP", "output": folder / "run", **columns}
    given["options"] = {**OPTIONS, "seed_everything": seed}
    classifier = Classifier.train(folder / "table.csv", **given)
    rows = [dict(zip(table, cells, strict=True)) for cells in zip(*table.values(), strict=True)]
    tested = [row for row in rows if row["split"] == "test"]
    filled = text if "{" in text else f"{{{text}}}"
    items = [{"image": row["image"], "text": filled.format(**row)} for row in tested]
    answers = classifier(items, progress=False)
    pairs = zip(answers, tested, strict=True)
    return classifier, 100 * float(np.mean([a[0]["label"] == r["category"] for a, r in pairs]))


def plant(table: Table) -> set[int]:
    """Give rows another category; returns the rows."""
    draw, names = random.Random(0), sorted(set(table["category"]))
    rows = draw.sample(range(len(table["code"])), int(PLANTED * len(table["code"])))
    for row in rows:
        others = [name for name in names if name != table["category"][row]]
        table["category"][row] = draw.choice(others)
    return set(rows)


def errors(folder: Path, seeds: int) -> list[dict[str, Any]]:
    """Precision and recall of the first suspects, of one label and of several for each row.

    The several are category and subcategory, as far as at least 20 rows have them; one is added or
    taken away.
    """
    table, draw = emoji_table(), random.Random(0)
    kinds = {each.code: each.subcategory for each in load_emoji()}
    pairs = [[a, kinds[code]] for a, code in zip(table["category"], table["code"], strict=True)]
    frequent = sorted(k for k, n in Counter(chain.from_iterable(pairs)).items() if n >= 20)
    tags = [[each for each in pair if each in frequent] for pair in pairs]
    planted = set()
    for row in draw.sample(range(len(tags)), int(PLANTED * len(tags))):
        changed = draw.choice(frequent if draw.random() < 0.5 else tags[row])
        tags[row] = sorted({*tags[row]} ^ {changed})
        planted.add((row, changed))
    wrong = plant(table)
    classifier, _ = train(folder, table)
    items = [{"image": i, "text": t} for i, t in zip(table["image"], table["name"], strict=True)]
    sides = classifier.embed(items, progress=False).values()
    vectors = label_next.unit(np.hstack([label_next.unit(side) for side in sides]))
    one = label_errors.suspects(vectors, [[each] for each in table["category"]], several=False)
    many = label_errors.suspects(vectors, tags, several=True)
    listed = [each["row"] in wrong for each in one]
    several = [(each["row"], each["given"] or each["proposed"]) in planted for each in many]
    return [
        *found_among("one label", listed, len(wrong), len(tags)),
        *found_among("several labels", several, len(planted), len(tags)),
    ]


def found_among(name: str, listed: list[bool], wrong: int, rows: int) -> list[dict[str, Any]]:
    """Precision and recall of the beginning of a list of suspects."""
    return [
        {
            "list": name,
            "looked at": number,
            "of the rows %": round(100 * number / rows, 1),
            "precision %": round(100 * sum(listed[:number]) / number),
            "recall %": round(100 * sum(listed[:number]) / wrong),
        }
        for number in (wrong // 2, wrong, 2 * wrong, len(listed))
    ]


def runs(folder: Path, seeds: int) -> list[dict[str, Any]]:
    """The same of one label, by the runs of a comparison."""
    table = emoji_table()
    del table["split"]
    wrong = {table["code"][row] for row in plant(table)}
    write_csv(folder / "table.csv", table)
    columns = {"image": "image", "text": "name", "label": "category"}
    config, _ = write_config(folder / "table.csv", True, folder / "epic.yaml", **columns)
    command = ["-m", "epic_pl", "compare", "--config", str(config), "--methods", "LateFusionMLP"]
    options = ["--splits", "--seeds", str(seeds), "--output", str(folder / "runs")]
    own = ["--cache.level", "layers", "--data.init_args.id_column", "code"]
    subprocess.run([sys.executable, *command, *options, *own], check=True)
    found = label_errors_of_runs.suspects(folder / "runs")
    listed = [row["sample_id"] in wrong for row in found]
    return found_among("one label", listed, len(wrong), len(table["code"]))


def next_labels(folder: Path, seeds: int) -> list[dict[str, Any]]:
    """Accuracy with 200 more labels, of the smallest margins or of random rows."""
    found: dict[str, list[float]] = {"300 labels": [], "200 more by margin": [], "or at random": []}
    for seed in range(seeds):
        table = emoji_table()
        pool = [index for index, part in enumerate(table["split"]) if part == "train"]
        random.Random(seed).shuffle(pool)
        use = partial(labelled, table)
        classifier, score = train(folder / f"first{seed}", use(pool[:300]), seed=seed)
        found["300 labels"].append(score)
        rest = pool[300:]
        items = [{"image": table["image"][i], "text": table["name"][i]} for i in rest]
        scores = np.sort(classifier.probabilities(items, progress=False), axis=1)
        margins = scores[:, -1] - scores[:, -2]
        features = classifier.embed(items, progress=False)
        vectors = label_next.unit(np.hstack([label_next.unit(side) for side in features.values()]))
        rows = [{"sample_id": i, "margin": m} for i, m in zip(rest, margins, strict=True)]
        chosen = label_next.choose(rows, dict(zip(rest, vectors, strict=True)), 200)
        picked = [row["sample_id"] for row in chosen]
        for name, more in (("200 more by margin", picked), ("or at random", rest[:200])):
            folder_of = folder / f"{name.split()[-1]}{seed}"
            found[name].append(train(folder_of, use(pool[:300] + more), seed=seed)[1])
    return [{"labels": name, **spread(scores)} for name, scores in found.items()]


def labelled(table: Table, rows: Sequence[int]) -> Table:
    kept = [*rows, *(i for i, part in enumerate(table["split"]) if part == "test")]
    return {column: [cells[index] for index in kept] for column, cells in table.items()}


def shifts(folder: Path, repeats: int) -> list[dict[str, Any]]:
    """D between two halves of the emoji, with images of another drawer in the second."""
    table = emoji_table()
    classifier, _ = train(folder, table)
    others = cached_folder(f"twemoji-15.0.0-{SIZE}px", _draw_others)
    drawn = {each.stem: str(each) for each in others.glob("*.png")}
    both = [i for i, code in enumerate(table["code"]) if code in drawn]
    own = classifier.embed([{"image": table["image"][i]} for i in both], progress=False)["image"]
    new = classifier.embed([{"image": drawn[table["code"][i]]} for i in both], progress=False)
    rows = []
    for share in (0.0, 0.1, 0.25, 0.5, 1.0):
        found = []
        for seed in range(repeats):
            order = np.random.default_rng(seed).permutation(len(both))
            before, after = order[: len(both) // 2], order[len(both) // 2 :]
            moved = int(share * len(after))
            second = np.concatenate([new["image"][after[:moved]], own[after[moved:]]])
            found.append(drift.compare(own[before], second))
        row = {"of another drawer %": int(100 * share), "rows each": len(both) // 2}
        worst = [each["D"] for each in found]
        row["D"] = f"{np.median(worst):.2f} ({min(worst):.2f} to {max(worst):.2f})"
        rows.append(row | {"alarms": f"{sum(each['alarm'] for each in found)} of {repeats}"})
    return rows


def _draw_others(folder: Path) -> None:
    pack = [shutil.which("npm") or "npm", "pack", OTHER_DRAWER, "--ignore-scripts"]
    subprocess.run([*pack, "--pack-destination", str(folder)], check=True, capture_output=True)
    package = next(folder.glob("*.tgz"))
    codes = {each.code.lower().replace("-fe0f", ""): each.code for each in load_emoji()}
    with tarfile.open(package) as archive:
        for member in archive:
            code = codes.get(Path(member.name).stem.replace("-fe0f", ""))
            if code and member.name.endswith(".svg") and (file := archive.extractfile(member)):
                (folder / f"{code}.png").write_bytes(draw_svg(file.read().decode("utf-8"), SIZE))
    package.unlink()


def spread(scores: list[float]) -> dict[str, Any]:
    """Mean and standard deviation over seeds."""
    deviation = f" ± {np.std(scores, ddof=1):.1f}" if len(scores) > 1 else ""
    return {"accuracy %": f"{np.mean(scores):.1f}{deviation}", "seeds": len(scores)}


PARTS = {"errors": (errors, 1), "runs": (runs, 15), "next": (next_labels, 3), "drift": (shifts, 20)}


if __name__ == "__main__":
    main()
