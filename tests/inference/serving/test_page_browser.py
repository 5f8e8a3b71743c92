"""The page in a real browser; skipped where playwright or Chromium is missing."""

import os
from pathlib import Path

import pytest
from PIL import Image

from epic_pl import Classifier
from epic_pl.inference.serving.page import build_page, open_page

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
pytest.importorskip("gradio", reason="needs the extra app")

CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
OFFLINE = "--disable-background-networking --disable-component-update --disable-sync"
ARGUMENTS = f"--no-sandbox --disable-gpu --no-first-run {OFFLINE}".split()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.is_file(), reason=f"needs a browser at {CHROMIUM}"),
]


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)


@pytest.fixture
def address(classifier):
    page = build_page(classifier, "squares")
    yield open_page(page, "127.0.0.1", 7899)
    page.close()


@pytest.fixture
def opened(address, browser):
    """Opens the page, and fails if anything but this machine is asked for anything."""
    asked = []

    def opened(width=1200, scheme="light"):
        tab = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        tab.set_default_timeout(20_000)
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(address)
        tab.get_by_role("button", name="Classify").wait_for()
        return tab

    yield opened
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []


@pytest.fixture
def square(tmp_path):
    Image.new("RGB", (50, 50), "blue").save(tmp_path / "square.png")
    return tmp_path / "square.png"


def upload(tab, file):
    tab.set_input_files("input[type=file]", file)
    tab.locator("img[src*='/file=']").wait_for()


def top_label(tab, title):
    """The most probable label of one of the three, once it is there."""
    block = tab.locator(".block").filter(has=tab.get_by_text(title, exact=True))
    return block.get_by_test_id("label-output-value")


def test_image_and_text_are_classified_together_and_alone(opened, square):
    tab = opened()
    upload(tab, square)
    tab.get_by_label("Text").fill("a blue square {{value}} ${1} <script>")
    tab.get_by_role("button", name="Classify").click()
    tab.get_by_text("not a cause").wait_for()
    for title in ("Image and text", "Image alone", "Text alone"):
        assert top_label(tab, title).inner_text() in ("blue", "green", "red")
    tab.get_by_role("button", name="Clear").click()
    tab.get_by_text("not a cause").wait_for(state="detached")
    assert tab.get_by_label("Text").input_value() == ""
    tab.get_by_role("button", name="3 classes").click()
    tab.locator("textarea").last.wait_for()
    assert tab.locator("textarea").last.input_value() == "blue, green, red"


RUN = "document.title='RAN'"
HOSTILE = (
    f"<script>{RUN}</script>",
    f'"><img src=x onerror="{RUN}">',
    f"</style></svg><script>{RUN}</script>",
    f"[click](javascript:{RUN})",
    "\u202eturned\u2067",
    "{{ 7 * 7 }} ${1} $\\frac{1}{0}$",
)


def test_hostile_names_and_texts_are_shown_as_they_are(make, classifier, browser):
    preprocessing = classifier.module.hparams["preprocessing"]
    names = {"num_classes": len(HOSTILE), "class_names": list(HOSTILE)}
    page = build_page(Classifier(make(preprocessing=preprocessing, **names), "cpu"), "names")
    tab = browser.new_page()
    tab.set_default_timeout(20_000)
    try:
        tab.goto(open_page(page, "127.0.0.1", 7898))
        for text in HOSTILE:
            tab.get_by_label("Text").fill(text)
            tab.get_by_role("button", name="Classify").click()
            tab.get_by_text("not a cause").wait_for()
            assert top_label(tab, "Text alone").text_content().strip() in HOSTILE
            assert tab.title() == "names"
            assert tab.locator("[onerror], [href^=javascript]").count() == 0
            tab.get_by_role("button", name="Clear").click()
            tab.get_by_text("not a cause").wait_for(state="detached")
    finally:
        page.close()


def test_the_keyboard_alone_reaches_everything(opened, square):
    tab = opened()
    with tab.expect_file_chooser() as chosen:
        for _ in range(10):
            tab.keyboard.press("Tab")
            if "Drop" in tab.evaluate("document.activeElement.innerText"):
                break
        tab.keyboard.press("Enter")
    chosen.value.set_files(square)
    tab.locator("img[src*='/file=']").wait_for()
    for _ in range(10):
        tab.keyboard.press("Tab")
        if tab.evaluate("document.activeElement.tagName") == "TEXTAREA":
            break
    tab.keyboard.type("a green square")
    tab.keyboard.press("Enter")
    top_label(tab, "Text alone").wait_for()
    assert tab.evaluate("document.activeElement.tagName") == "TEXTAREA"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling(scheme, opened, square):
    tab = opened(390, scheme)
    upload(tab, square)
    tab.get_by_label("Text").fill("blue " * 200)
    tab.keyboard.press("Enter")
    top_label(tab, "Text alone").wait_for()
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
