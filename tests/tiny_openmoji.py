"""A fabricated OpenMoji in the layout of the cache, with few names and plain images."""

import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

COUNTS = {"face": 20, "animal": 16, "tool": 15, "rare": 14}
KEYS = ("unified", "name", "category", "subcategory")


def rows() -> list[dict[str, object]]:
    """The table of emoji; "rare" has 15 with the emoji that bears another's name."""
    emoji = [
        (f"1F{list(COUNTS).index(name)}{number:02d}", f"{name.upper()} {number}", "Objects", name)
        for name, count in COUNTS.items()
        for number in range(count)
    ]
    emoji += [(f"1F1E{n:02d}", f"Nation {n} Flag", "Flags", "country-flag") for n in range(16)]
    return _ordered([*emoji, ("1F999-FE0F", "FACE 0", "Objects", "rare")])


def _ordered(emoji: Sequence[tuple[str, str, str, str]]) -> list[dict[str, object]]:
    return [dict(zip(KEYS, one, strict=True), sort_order=n) for n, one in enumerate(emoji)]


def fill_cache(folder: Path) -> None:
    """The cache as fetching and drawing leave it, at 32 px."""
    _write(folder, rows(), {"openmoji-17.0.0-32px": 100}, step=3)


def fill_named_cache(folder: Path, sizes: tuple[int, ...] = (16, 32)) -> None:
    """A cache of 60 things with names of one word, drawn by two vendors in a colour each."""
    names = [f"{a}{b}{a}{b}".upper() for a in "bdfglmnprt" for b in "aeiouy"]
    emoji = _ordered([(f"1F{n:03d}", name, "Objects", "tool") for n, name in enumerate(names)])
    vendors = {"openmoji-17.0.0": 100, "noto-1.2.9": 200}
    drawings = {f"{name}-{size}px": blue for size in sizes for name, blue in vendors.items()}
    _write(folder, emoji, drawings, step=4)


def _write(folder: Path, emoji: Sequence[dict[str, object]], drawings: dict[str, int], step: int):
    """The list and folders of plain images, whose names end in their size: ``-32px``."""
    (folder / "emoji-data-1.6.0").mkdir(parents=True)
    (folder / "emoji-data-1.6.0" / "emoji.json").write_text(json.dumps(emoji))
    for name, blue in drawings.items():
        (folder / name).mkdir()
        side = int(name.rpartition("-")[2].removesuffix("px"))
        for n, one in enumerate(emoji):
            image = Image.new("RGB", (side, side), (step * n, 250 - step * n, blue))
            image.save(folder / name / f"{one['unified']}.png")


def fit_options(vit: Path, bert: Path) -> list[str]:
    """Options that let an OpenMoji config fit on tiny encoders within seconds."""
    return [
        f"--model.encoders.image.name={vit}",
        f"--model.encoders.text.name={bert}",
        "--model.encoders.image_size=32",
        "--model.method.interaction_layers=2",
        "--trainer.max_epochs=1",
        "--trainer.accelerator=cpu",
    ]
