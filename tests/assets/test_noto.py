import hashlib
import io
import json
import tarfile

import pytest
from PIL import Image

from epic_pl.assets import Emoji, fetch_noto, noto, npm
from epic_pl.errors import AssetError

BODY = '<rect x="32" y="32" width="64" height="64" fill="#00f"/>'


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """The package in the cache, as a user would put it there; one name is an alias."""
    folder = tmp_path / "packages"
    folder.mkdir()
    icons = {"width": 128, "height": 128, "icons": {"dove": {"body": BODY}}}
    icons["aliases"] = {"peace": {"parent": "dove"}}
    members = {"icons": icons, "chars": {"1f54a": "peace", "1f600": "dove"}}
    with tarfile.open(folder / noto._PACKAGE.file, "w:gz") as archive:
        for name, content in members.items():
            data = json.dumps(content).encode()
            info = tarfile.TarInfo(f"package/{name}.json")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    digest = hashlib.sha256((folder / noto._PACKAGE.file).read_bytes()).hexdigest()
    monkeypatch.setenv("EPIC_PL_CACHE", str(tmp_path))
    monkeypatch.setattr(noto, "_PACKAGE", noto._PACKAGE._replace(sha256=digest))
    codes = ("1F54A-FE0F", "1F600", "1F1E6")
    monkeypatch.setattr(noto, "load_emoji", lambda: [Emoji(code, "", "", "") for code in codes])
    return tmp_path


def test_drawings_are_found_by_code_points_and_named_as_openmojis(cache, capsys):
    folder = fetch_noto(size=32)
    assert {file.name for file in folder.iterdir()} == {
        "1F54A-FE0F.png",
        "1F600.png",
        "ATTRIBUTION.txt",
    }
    with Image.open(folder / "1F54A-FE0F.png") as image:
        colours = [image.convert("RGB").getpixel((at, at)) for at in (0, 16)]
    assert colours == [(255, 255, 255), (0, 0, 255)]
    assert "Apache-2.0" in capsys.readouterr().err


def test_another_file_is_refused(cache, monkeypatch):
    monkeypatch.setattr(noto, "_PACKAGE", noto._PACKAGE._replace(sha256="0" * 64))
    with pytest.raises(AssetError, match=r"not the published @iconify-json/noto@1\.2\.9"):
        fetch_noto()


@pytest.mark.parametrize(
    ("program", "message"),
    [(None, r"npm, which is missing.*npm pack.*packages"), ("false", r"could not be fetched")],
)
def test_without_npm_or_network_the_message_names_the_way_out(cache, monkeypatch, program, message):
    (cache / "packages" / noto._PACKAGE.file).unlink()
    monkeypatch.setattr(npm.shutil, "which", lambda _: program)
    with pytest.raises(AssetError, match=message):
        fetch_noto()
