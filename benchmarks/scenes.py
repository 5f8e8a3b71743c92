"""Draw scenes with their statements, as docs/data.md shows them.

python benchmarks/scenes.py --count 6 --output docs/images/scenes.png
"""

import argparse
from pathlib import Path

from matplotlib.figure import Figure

from controls.scenes import SceneGenerator, compose, vocabulary
from epic_pl.utils.assets import OPENMOJI_ATTRIBUTION

_COLUMNS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=6, help="number of scenes (%(default)s)")
    parser.add_argument("--part", default="val", help="train, val, pairs or objects (%(default)s)")
    parser.add_argument("--size", type=int, default=112, help="of an image, in pixels")
    parser.add_argument("--output", type=Path, default=Path("runs/scenes.png"))
    arguments = parser.parse_args()
    things = vocabulary()
    generator = SceneGenerator([thing.name.lower() for thing in things], 0)
    rows = -(-arguments.count // _COLUMNS)
    figure = Figure(figsize=(3.2 * _COLUMNS, 2.9 * rows), layout="constrained")
    all_axes = figure.subplots(rows, _COLUMNS, squeeze=False).flat
    for index, axes in enumerate(all_axes):
        axes.set_axis_off()
        if index >= arguments.count:
            continue
        (objects, boxes), statements = generator.scene(arguments.part, index)
        axes.imshow(compose([things[each].code for each in objects], boxes, arguments.size))
        lines = [f"{'✓' if each.truth else '✗'} {each.text}" for each in statements]
        axes.set_title("\n".join(lines), fontsize=8, loc="left")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.output, dpi=64, pil_kwargs={"optimize": True})
    print(f"{arguments.output}: {OPENMOJI_ATTRIBUTION}")


if __name__ == "__main__":
    main()
