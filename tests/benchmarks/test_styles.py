"""``benchmarks/styles.py`` on fabricated emoji of two vendors."""

import hashlib
import io
import json
import tarfile

import pytest
from PIL import Image

import npm
import styles
from epic_pl.cli.epic_cli import run
from epic_pl.utils.assets import Emoji
from epic_pl.utils.errors import AssetError

BODY = '<rect x="32" y="32" width="64" height="64" fill="#00f"/>'


@pytest.fixture
def noto(cache, monkeypatch):
    """The package in the cache, as a user would put it there; one name is an alias."""
    folder = cache / "packages"
    folder.mkdir(parents=True)
    icons = {"width": 128, "height": 128, "icons": {"dove": {"body": BODY}}}
    icons["aliases"] = {"peace": {"parent": "dove"}}
    members = {"icons": icons, "chars": {"1f54a": "peace", "1f600": "dove"}}
    with tarfile.open(folder / styles._NOTO.file, "w:gz") as archive:
        for name, content in members.items():
            data = json.dumps(content).encode()
            info = tarfile.TarInfo(f"package/{name}.json")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    digest = hashlib.sha256((folder / styles._NOTO.file).read_bytes()).hexdigest()
    monkeypatch.setattr(styles, "_NOTO", styles._NOTO._replace(sha256=digest))
    codes = ("1F54A-FE0F", "1F600", "1F1E6")
    monkeypatch.setattr(styles, "load_emoji", lambda: [Emoji(code, "", "", "") for code in codes])
    return folder / styles._NOTO.file


def test_drawings_are_found_by_code_points_and_named_as_openmojis(noto):
    folder = styles.fetch_noto(size=32)
    assert {file.name for file in folder.iterdir()} == {
        "1F54A-FE0F.png",
        "1F600.png",
        "ATTRIBUTION.txt",
    }
    with Image.open(folder / "1F54A-FE0F.png") as image:
        colours = [image.convert("RGB").getpixel((at, at)) for at in (0, 16)]
    assert colours == [(255, 255, 255), (0, 0, 255)]
    assert "Apache-2.0" in (folder / "ATTRIBUTION.txt").read_text()


def test_another_file_is_refused(noto, monkeypatch):
    monkeypatch.setattr(styles, "_NOTO", styles._NOTO._replace(sha256="0" * 64))
    with pytest.raises(AssetError, match=r"not the published @iconify-json/noto@1\.2\.9"):
        styles.fetch_noto(size=32)


@pytest.mark.parametrize(
    ("program", "message"),
    [(None, r"npm, which is missing.*npm pack.*packages"), ("false", r"could not be fetched")],
)
def test_without_npm_or_network_the_message_names_the_way_out(noto, monkeypatch, program, message):
    noto.unlink()
    monkeypatch.setattr(npm.shutil, "which", lambda _: program)
    with pytest.raises(AssetError, match=message):
        styles.fetch_noto(size=32)


def test_the_config_trains_on_one_vendors_drawings_and_tests_on_all_of_the_others(on_named):
    options = ["--config", styles.__file__.replace(".py", ".yaml"), *on_named]
    best = run(["fit", *options]).trainer.checkpoint_callback.best_model_path
    data = run(["test", *options, "--ckpt_path", best]).datamodule
    data.setup()
    train, val, test = (data.dataset(split) for split in ("train", "val", "test"))
    assert (len(train), len(val), len(test)) == (57, 3 * 8, 60 * 4)
    shown = [set(dataset.distinct()[0]) for dataset in (train, val, test)]
    assert shown[0].isdisjoint(shown[1])
    assert shown[2] == shown[0] | shown[1]
    assert {test.read(path).getpixel((0, 0))[2] for path in shown[2]} == {200}
    assert {train.read(path).getpixel((0, 0))[2] for path in shown[0]} == {100}
    names = {emoji.code: emoji.name.lower() for emoji in data._emoji["test"]}
    rows = test.table.to_pylist()
    assert sum(row["label"] for row in rows) == len(rows) // 2
    for row in rows:
        assert (names[row["image"].removesuffix(".png")] == row["text"]) == row["label"]
