"""Figures and templates of HTML pages."""

import io
from xml.etree import ElementTree

import torch
from PIL import Image

from epic_pl.report.figures import draw_confusion_matrix
from epic_pl.utils.html_page import png, render, shorten, svg


def test_a_figure_in_a_page_is_sound_xml_in_the_colours_of_its_reader():
    names = ["<b>&", "\x1b[31m", "#000000"]
    counts = torch.tensor([[3, 1, 0], [0, 2, 0], [0, 0, 1]])
    drawn, again = (svg(draw_confusion_matrix(counts, names)) for _ in range(2))
    assert drawn == again
    texts = [text.text for text in ElementTree.fromstring(drawn).iter() if text.text]
    assert "<b>&" in texts
    assert {"?[31m", "#000000"} <= set(texts)
    assert b"prefers-color-scheme:dark" in drawn
    assert b"currentColor" in drawn
    assert b"fill: #000000" not in drawn


def test_a_figure_as_a_file_is_opaque():
    figure = draw_confusion_matrix(torch.eye(2).long(), ["a", "b"])
    with Image.open(io.BytesIO(png(figure))) as image:
        assert image.convert("RGBA").getpixel((0, 0)) == (255, 255, 255, 255)


def test_every_page_fits_a_phone_and_has_a_dark_mode():
    page = render("utils/templates/base.html")
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in page
    assert "prefers-color-scheme:dark" in page


def test_long_names_are_cut_for_a_figure():
    assert [shorten(name, 4) for name in ("", "four", "five5")] == ["", "four", "fiv…"]
