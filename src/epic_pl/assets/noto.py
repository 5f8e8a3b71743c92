"""Noto's drawings of the emoji, for the same code points as OpenMoji's.

Google, *Noto Emoji*, https://github.com/googlefonts/noto-emoji, Apache-2.0.
"""

import json
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from epic_pl.assets.cache import cache_dir, cached_folder
from epic_pl.assets.openmoji import load_emoji
from epic_pl.assets.svg import draw_svg
from epic_pl.assets.wheels import verify_sha256
from epic_pl.errors import AssetError

NOTO_ATTRIBUTION = "Pictures: Noto Emoji, Google, Apache-2.0"
_PACKAGE = "@iconify-json/noto@1.2.9"
_FILE = "iconify-json-noto-1.2.9.tgz"
_XML = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
_SHA256 = "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad"


def fetch_noto(size: int = 112) -> Path:
    """A folder with Noto's emoji as `<code>.png` on white, named as those of `fetch_openmoji`.

    Flags are not among them. The first use of a size fetches 3 MB with npm, Node's package manager.

    Raises:
        AssetError: npm or resvg-py is missing, or the pictures cannot be fetched.
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
    with tempfile.TemporaryDirectory(prefix="epic_pl-", dir=cache_dir()) as temporary:
        by_hand = cache_dir() / "packages" / _FILE
        path = by_hand if by_hand.is_file() else _download(Path(temporary))
        verify_sha256(path, _SHA256, _PACKAGE)
        with tarfile.open(path) as archive:  # two members are read, none is unpacked
            icons, codes = (_member(archive, name) for name in ("icons", "chars"))
    names = {alias: each["parent"] for alias, each in icons["aliases"].items()}
    head = f'<svg {_XML} viewBox="0 0 {icons["width"]} {icons["height"]}">'
    bodies = {name: f"{head}{each['body']}</svg>" for name, each in icons["icons"].items()}
    return {_key(code): bodies[names.get(name, name)] for code, name in codes.items()}


def _member(archive: tarfile.TarFile, name: str) -> dict[str, Any]:
    file = archive.extractfile(f"package/{name}.json")
    assert file is not None, name
    content: dict[str, Any] = json.load(file)
    return content


def _key(code: str) -> str:
    # both leave out FE0F (variation selector 16) in places
    return code.lower().replace("-fe0f", "")


def _download(folder: Path) -> Path:
    """Fetch with npm, which knows the user's registry, proxy and certificates."""
    by_hand = (
        f"download that package on another machine (`npm pack {_PACKAGE}`) and put {_FILE} into "
        f"{cache_dir() / 'packages'}: it is then used without a network."
    )
    npm = shutil.which("npm")
    if npm is None:
        raise AssetError(
            f"The Noto pictures are fetched with npm, which is missing: install it, or {by_hand}"
        )
    Console(stderr=True).print(f"Fetching {_PACKAGE} (3 MB) with npm, once", highlight=False)
    command = [npm, "pack", _PACKAGE, "--ignore-scripts", "--pack-destination", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    path = folder / _FILE
    if done.returncode or not path.is_file():
        lines = done.stderr.strip().splitlines() or [f"npm ended with {done.returncode}"]
        raise AssetError(
            f"{_PACKAGE} could not be fetched with npm: {lines[0]}. Check the network, or {by_hand}"
        )
    return path
