"""A fabricated OpenMoji in the layout of the cache, with few names and plain images."""

import json
from pathlib import Path

from PIL import Image

COUNTS = {"face": 20, "animal": 16, "tool": 15, "rare": 14}


def rows() -> list[dict[str, object]]:
    """The table of emoji; "rare" has 15 with the emoji that bears another's name."""
    found = [
        (f"1F{list(COUNTS).index(name)}{number:02d}", f"{name.upper()} {number}", "Objects", name)
        for name, count in COUNTS.items()
        for number in range(count)
    ]
    found += [(f"1F1E{n:02d}", f"Nation {n} Flag", "Flags", "country-flag") for n in range(16)]
    found += [("1F999-FE0F", "FACE 0", "Objects", "rare")]
    keys = ("unified", "name", "category", "subcategory")
    return [
        dict(zip(keys, row, strict=True)) | {"sort_order": order} for order, row in enumerate(found)
    ]


def fill_cache(folder: Path) -> None:
    """The cache as fetching and drawing leave it, at 32 px."""
    (folder / "emoji-data-1.6.0").mkdir(parents=True)
    (folder / "emoji-data-1.6.0" / "emoji.json").write_text(json.dumps(rows()))
    images = folder / "openmoji-17.0.0-32px"
    images.mkdir()
    for number, row in enumerate(rows()):
        colour = (3 * number, 250 - 3 * number, 100)
        Image.new("RGB", (32, 32), colour).save(images / f"{row['unified']}.png")


def fit_options(vit: Path, bert: Path) -> list[str]:
    """Options that let an OpenMoji config fit on tiny encoders within seconds."""
    return [
        f"--model.encoders.image.name={vit}",
        f"--model.encoders.text.name={bert}",
        "--model.encoders.image_size=32",
        "--model.epic.interaction_layers=2",
        "--trainer.max_epochs=1",
        "--trainer.accelerator=cpu",
    ]


def fill_named_cache(folder: Path, sizes: tuple[int, ...] = (16, 32)) -> None:
    """A cache of 60 things with names of one word, drawn by two vendors in a colour each."""
    (folder / "emoji-data-1.6.0").mkdir(parents=True)
    names = [f"{a}{b}{a}{b}" for a in "bdfglmnprt" for b in "aeiouy"]
    named = [
        {
            "unified": f"1F{n:03d}",
            "name": name.upper(),
            "category": "Objects",
            "subcategory": "tool",
            "sort_order": n,
        }
        for n, name in enumerate(names)
    ]
    (folder / "emoji-data-1.6.0" / "emoji.json").write_text(json.dumps(named))
    for size in sizes:
        for vendor in ("openmoji-17.0.0", "noto-1.2.9"):
            images = folder / f"{vendor}-{size}px"
            images.mkdir()
            for n in range(len(names)):
                colour = (4 * n, 250 - 4 * n, 100 if vendor.startswith("open") else 200)
                Image.new("RGB", (size, size), colour).save(images / f"1F{n:03d}.png")
