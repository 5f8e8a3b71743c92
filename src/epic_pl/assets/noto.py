"""Noto's emoji images, for the same code points as OpenMoji's.

Google, *Noto Emoji*, https://github.com/googlefonts/noto-emoji, Apache-2.0.
"""

import json
from pathlib import Path

from rich.console import Console
from rich.progress import track

from epic_pl.assets.cache import cached_folder
from epic_pl.assets.npm import Package, open_package, read_member
from epic_pl.assets.openmoji import load_emoji
from epic_pl.assets.svg import draw_svg

NOTO_ATTRIBUTION = "Images: Noto Emoji, Google, Apache-2.0"
_PACKAGE = Package(
    "@iconify-json/noto@1.2.9",
    "iconify-json-noto-1.2.9.tgz",
    "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
)
_XML = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'


def fetch_noto(size: int = 112) -> Path:
    """A folder with Noto's emoji as `<code>.png` on white, named as in `fetch_openmoji`.

    Flags are not included. The first use of a size fetches 3 MB with npm, Node's package manager.

    Raises:
        AssetError: npm or resvg-py is missing, or the images cannot be fetched.
    """
    return cached_folder(f"noto-1.2.9-{size}px", lambda folder: _draw_all(folder, size))


def _draw_all(folder: Path, size: int) -> None:
    drawings = _drawings()
    console = Console(stderr=True)
    for emoji in track(load_emoji(), f"Drawing Noto at {size} px", console=console):
        svg = drawings.get(_key(emoji.code))
        if svg is not None:
            (folder / f"{emoji.code}.png").write_bytes(draw_svg(svg, size))
    (folder / "ATTRIBUTION.txt").write_text(f"{NOTO_ATTRIBUTION}\n", encoding="utf-8")
    console.print(NOTO_ATTRIBUTION)


def _drawings() -> dict[str, str]:
    """SVG of each emoji, by its code points."""
    with open_package(_PACKAGE) as archive:
        icons, codes = (json.loads(read_member(archive, f"{n}.json")) for n in ("icons", "chars"))
    names = {alias: icon["parent"] for alias, icon in icons["aliases"].items()}
    head = f'<svg {_XML} viewBox="0 0 {icons["width"]} {icons["height"]}">'
    bodies = {name: f"{head}{icon['body']}</svg>" for name, icon in icons["icons"].items()}
    return {_key(code): bodies[names.get(name, name)] for code, name in codes.items()}


def _key(code: str) -> str:
    # both omit FE0F (variation selector 16) in some names
    return code.lower().replace("-fe0f", "")
