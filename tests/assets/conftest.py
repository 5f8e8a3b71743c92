"""Wheels with contents of the test's own, put into the cache as a user would."""

import hashlib
import zipfile
from dataclasses import replace

import pytest


@pytest.fixture
def put_wheel(monkeypatch, tmp_path):
    """Write a wheel of given members by hand and return its pin with that file's SHA-256."""
    monkeypatch.setenv("EPIC_PL_CACHE", str(tmp_path / "cache"))

    def put(wheel, members, folder=None):
        folder = folder or tmp_path / "cache" / "wheels"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / wheel.file_pattern.replace("*", "py3-none-any")
        with zipfile.ZipFile(path, "w") as archive:
            for name, text in members.items():
                archive.writestr(name, text)
        return replace(wheel, sha256=hashlib.sha256(path.read_bytes()).hexdigest())

    return put
