"""Wheels in the cache, as a user would put them there."""

import hashlib
import zipfile
from dataclasses import replace

import pytest


@pytest.fixture
def put_wheel(cache):
    """Write a wheel of given members by hand and return its pin with that file's SHA-256."""

    def put(wheel, members, folder=cache / "wheels"):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / wheel.file_pattern.replace("*", "py3-none-any")
        with zipfile.ZipFile(path, "w") as archive:
            for name, text in members.items():
                archive.writestr(name, text)
        return replace(wheel, sha256=hashlib.sha256(path.read_bytes()).hexdigest())

    return put
