"""The web page of ``epic-pl app``: it shows labels and attention for an image, a text, or both."""

import base64
import html
import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, cast

from epic_pl.data.cells import ColumnPreprocessing
from epic_pl.data.decoding import FORMATS, MAX_PIXELS
from epic_pl.data.processor import Item
from epic_pl.inference.classifier import Classifier
from epic_pl.inference.explain.figures import sample_svg
from epic_pl.inference.explain.samples import added_by_source, explain_sample, in_points
from epic_pl.utils.errors import ConfigError, DataError, EpicError, needs_extra, raised_as
from epic_pl.utils.types import Sample

MAX_BYTES = 20 * 2**20
"""Largest upload."""
MAX_CHARACTERS = 10_000
"""Longest text."""
_PAIR, _IMAGE, _TEXT = _TITLES = ("Image and text", "Image alone", "Text alone")
# the paths that the page asks for; gradio has many more, such as one that runs ffmpeg
_FILES = r"/((assets|static)/.*|theme\.css|favicon\.ico)?"
_CALLS = r"/gradio_api/(upload(_progress)?|queue/(join|data)|file=.*|app_id|startup-events)"
_LOCAL = ("127.0.0.1", "localhost")  # names of this machine, for itself alone
_DECODING, _CLASSIFYING = Lock(), Lock()
_SHOWN = 5  # number of labels that are always shown
_ATTENTION = """\
<h3>What the prompts attend to</h3>
<p>Shares of attention in the last layer that the prompts read, the mean over its heads. Attention
shows what a layer read. It is not a cause of the prediction.</p>
<img alt="Attention in the last step, and similarities" style="width: 100%; max-width: 40rem"
src="data:image/svg+xml;base64,{}">"""


class PageContent(NamedTuple):
    """Labels with probabilities by title, notes on them, and the attention as HTML."""

    labels: dict[str, dict[str, float]]
    notes: list[str]
    attention: str


def build_page(classifier: Classifier, name: str) -> Any:
    """Build the page as ``gradio.Blocks``.

    Raises:
        ConfigError: if gradio is not installed.
    """
    # gradio's import reads these; it calls only this machine, which a proxy may not reach
    os.environ.update(GRADIO_ANALYTICS_ENABLED="False", NO_PROXY="*", no_proxy="*")
    with needs_extra("app", "epic-pl app"):
        gradio = import_module("gradio")
    names, columns = classifier.class_names, classifier.processor.columns
    # gradio deletes uploads within two hours
    with gradio.Blocks(title=name, analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        gradio.Markdown(f"# {name}\nGive an image, a text, or both.")
        with gradio.Row():
            image = gradio.Image(label="Image", sources=["upload", "clipboard"], height=260)
            with gradio.Column():
                text = gradio.Textbox(label="Text", max_lines=8)
                cells = [_column_input(gradio, name, columns) for name in columns.names]
                classify = gradio.Button("Classify", variant="primary")
                clear = gradio.ClearButton()
        heading = classifier.thresholds is None  # show the most probable label in large letters
        with gradio.Row():
            labels = [gradio.Label(label=title, show_heading=heading) for title in _TITLES]
        notes, attention = gradio.Markdown(), gradio.HTML()
        with gradio.Accordion(f"{len(names):,} classes", open=False):
            gradio.Textbox(", ".join(names), show_label=False, interactive=False)
        clear.add([image, text, *cells, *labels, notes, attention])

        def shown(upload: Any, words: Any, *values: Any) -> list[Any]:
            try:
                file = uploaded_file(upload, Path(image.GRADIO_CACHE))
                found = answer(
                    classifier, file, words, dict(zip(columns.names, values, strict=True))
                )
            except EpicError as error:
                said = html.escape(str(error))
                raise gradio.Error(said, duration=None, print_exception=False) from error
            of_titles = [found.labels.get(title) for title in _TITLES]
            return [*of_titles, "\n\n".join(found.notes), found.attention]

        gradio.on(
            [classify.click, text.submit],
            shown,
            [image, text, *cells],
            [*labels, notes, attention],
            api_name="classify",
            # gr.Image would open any path that comes without `meta`; uploaded_file does not
            preprocess=False,
            concurrency_limit=None,  # a text does not wait for images
        )
    return page.queue(max_size=32)


def _column_input(gradio: Any, name: str, columns: ColumnPreprocessing) -> Any:
    """An input of a column, which may stay empty."""
    if (known := columns.categories.get(name)) is not None:
        return gradio.Dropdown(known, value=None, label=name, allow_custom_value=True)
    if name in columns.dates:
        return gradio.Textbox(label=name, placeholder="2007-06-10")
    return gradio.Number(label=name, value=None)


def open_page(page: Any, host: str, port: int) -> str:
    """Serve a page from threads of this process, and return its address.

    Raises:
        ConfigError: if the host or the port cannot be used.
    """
    from fastapi import Depends, HTTPException, Request
    from gradio.themes import Default
    from httpx import HTTPError, InvalidURL

    def refuse_address(found: dict[str, Any]) -> None:
        if "://" in str(found.get("path")):
            raise HTTPException(400, "Upload the image: addresses are not fetched.")

    async def check(request: Request) -> None:
        """Refuse what the page does not send, and addresses of files, which gradio would fetch."""
        name, origin = (request.headers.get(key, "") for key in ("host", "origin"))
        # a page can give its own name the address 127.0.0.1, and a browser lets any page send forms
        known = host not in _LOCAL or name.partition(":")[0] in _LOCAL
        if not known or (origin and origin.split("://")[-1] != name):
            raise HTTPException(403, "Open the page by its own address.")
        # gradio's parser of uploads decodes with any codec of Python, some in quadratic time
        own = "charset" not in request.headers.get("content-type", "").lower()
        if not own or not re.fullmatch(f"{_FILES}|{_CALLS}", request.scope["path"]):
            raise HTTPException(404)
        if request.url.path != "/gradio_api/upload":
            with suppress(ValueError):  # the body is no JSON
                json.loads(await request.body(), object_hook=refuse_address)

    place = {"server_name": host, "server_port": port, "prevent_thread_lock": True, "quiet": True}
    offline = {"share": False, "run_history": False, "enable_monitoring": False, "footer_links": []}
    checks = {"dependencies": [Depends(check)], "openapi_url": None}
    theme = Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    way_out = "Choose another --port or --host."
    errors = (OSError, OverflowError, ValueError, HTTPError, InvalidURL)
    with raised_as(ConfigError, f"The page cannot listen on {host}, port {port}", way_out, *errors):
        page.launch(**place, **offline, theme=theme, max_file_size=MAX_BYTES, app_kwargs=checks)
    return str(page.local_url)


def uploaded_file(upload: Any, folder: Path) -> Path | None:
    """The regular file below gradio's folder that an upload names; None without an upload.

    Raises:
        DataError: if it names anything else, which the message does not repeat.
    """
    if upload is None:
        return None
    # a missing key, a NUL character, or a circle of links
    with suppress(LookupError, TypeError, ValueError, RuntimeError, OSError):
        file = Path(upload["path"]).resolve()
        below = file.is_relative_to(folder.resolve())
        if below and file.is_file() and file.stat().st_size <= MAX_BYTES:
            return file
    raise DataError(f"Upload the image, a file of at most {MAX_BYTES // 2**20} MiB.")


def answer(
    classifier: Classifier,
    image: Path | None,
    text: Any,
    cells: Mapping[str, Any] | None = None,
) -> PageContent:
    """Labels of a pair and of each modality alone, and the attention of the pair.

    There may be no image (None) or no text (None or blanks). ``cells`` are the columns' values.

    Raises:
        DataError: if both are missing, the image or a value cannot be read, or the text is too
            long.
    """
    given = cells or {}
    classifier.processor.check_cells(given)
    text = str(text or "").strip()
    if len(text) > MAX_CHARACTERS:
        raise DataError(f"The text has {len(text):,} characters; the limit is {MAX_CHARACTERS:,}.")
    samples: dict[str, Sample] = {}
    if image:
        try:
            with _DECODING:
                samples[_IMAGE] = classifier.prepare(cast(Item, {"image": image, **given}))
        except DataError as error:  # its message has the path and the first bytes
            raise DataError(
                f"The image cannot be read: upload a whole file in one of {', '.join(FORMATS)} "
                f"with at most {MAX_PIXELS:,} pixels."
            ) from error
    if text:
        samples[_TEXT] = classifier.prepare(cast(Item, {"text": text, **given}))
    if not samples:
        raise DataError("There is neither an image nor a text: give one of them, or both.")
    if len(samples) == 2:
        samples[_PAIR] = {**samples[_IMAGE], "text": samples[_TEXT]["text"]}
    whole, read = [*samples.values()][-1], classifier.processor.max_text_tokens
    words = classifier.processor.text.prompt + (whole["text"] or "")
    tokens = len(classifier.processor.encode(words)["input_ids"])
    never, notes = " or its ".join(classifier.never_missing), []
    if classifier.thresholds is not None:
        notes.append("✓ marks labels that reach their threshold.")
    if tokens > read:
        notes.append(f"The text has {tokens} tokens; the model reads the first {read}.")
    if never:
        notes.append(f"No training sample lacked its {never}, so labels without it are untrained.")
    with _CLASSIFYING:
        try:
            drawn = sample_svg(explain_sample(classifier.module, classifier.processor, whole))
            attention = _ATTENTION.format(base64.b64encode(drawn).decode())
        except EpicError:
            notes.append("No prompts' attention can be drawn for this model.")
            attention = ""
        if classifier.columns:
            added = in_points(added_by_source(classifier.module, classifier.processor, whole))
            notes.append(f"Points that the first label loses without: {added}.")
        labels = {title: _labels(classifier, sample) for title, sample in samples.items()}
        return PageContent(labels, notes, attention)


def _labels(classifier: Classifier, sample: Sample) -> dict[str, float]:
    """The most probable labels, and all that reach their thresholds; these are marked."""
    scores = classifier.sample_probabilities([sample])
    (likely,) = classifier.labels(scores, _SHOWN)
    reached = [] if classifier.thresholds is None else classifier.labels(scores)[0]
    marked = {f"✓ {label['label']}": label["score"] for label in reached}
    return marked | {label["label"]: label["score"] for label in likely if label not in reached}
