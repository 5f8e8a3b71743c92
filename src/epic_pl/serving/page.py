"""The page of ``epic-pl app``: an image, a text, or both in, HTML out.

Shape legend: n prompts or parts of the text, P patches, N tokens, r common width, C classes.
"""

import io
import os
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from epic_pl.classifier import Classifier
from epic_pl.data.images import read_image
from epic_pl.errors import ConfigError, DataError, EpicError
from epic_pl.evaluation.evaluator import as_pil_image
from epic_pl.evaluation.explain.figures import sample_svg
from epic_pl.evaluation.explain.samples import Explanation, explain_sample, word_shares
from epic_pl.inference.inputs import Item
from epic_pl.inference.item_classifier import Label
from epic_pl.inspection.html_page import HEAT, jpeg, render
from epic_pl.nn import EPIC
from epic_pl.nn.encoders.segments import grid_side
from epic_pl.nn.prompts import TextParts
from epic_pl.types import Sample

MAX_BYTES = 20 * 2**20
"""Largest upload; :func:`~epic_pl.data.images.read_image` limits its pixels."""
MAX_CHARACTERS = 10_000
"""Longest text."""
_WORDS, _LEAST_SHARE = 4, 0.03  # words shown of a part or a prompt


@dataclass
class PageContent:
    """What the page shows of an image and a text.

    Attributes:
        labels: all labels of the pair, and of each modality alone where it has both.
        notes: what limits these numbers.
        photo: the image as the model reads it, JPEG.
        parts: words of each part of the text, and its cosines ``(P,)`` with the patches.
        similarity: cosine of the features that a similarity head compares.
        explanation: attention of the prompts.
    """

    labels: dict[str, list[Label]]
    notes: list[str] = field(default_factory=list)
    photo: bytes | None = None
    parts: list[tuple[str, Tensor]] = field(default_factory=list)
    similarity: float | None = None
    explanation: Explanation | None = None


def build_page(classifier: Classifier, name: str) -> Any:
    """The page as ``gradio.Blocks``; it sends nothing to anyone.

    Raises:
        ConfigError: gradio is not installed.
    """
    # its import reads these; it asks only this machine, which a proxy may not reach
    os.environ.update(GRADIO_ANALYTICS_ENABLED="False", NO_PROXY="*", no_proxy="*")
    try:
        gradio: Any = import_module("gradio")  # two of its methods are replaced
    except ImportError as error:
        raise ConfigError("epic-pl app needs gradio: pip install 'epic_pl[app]'.") from error
    start = _render(classifier)
    # uploads are deleted within two hours
    with gradio.Blocks(title=name, analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        gradio.Markdown(f"# {name}")
        with gradio.Row():
            image = gradio.Image(
                label="Image", type="filepath", sources=["upload", "clipboard"], height=260
            )
            # gradio would fetch addresses, and read files without limits or clear messages;
            # of a subclass it would write a .pyi file beside this one
            image.async_move_resource_to_block_cache = _unmoved
            image.preprocess = lambda upload: upload and upload.path
            with gradio.Column():
                text = gradio.Textbox(label="Text", max_lines=8)
                with gradio.Row():
                    classify = gradio.Button("Classify", variant="primary")
                    clear = gradio.Button("Clear")
        shown = gradio.HTML(start, apply_default_css=False)
        gradio.on(
            [classify.click, text.submit],
            lambda path, words: answer(classifier, path, words),
            [image, text],
            shown,
            api_name="classify",
        )
        clear.click(lambda: (None, "", start), None, [image, text, shown], api_visibility="private")
    return page.queue(max_size=32)


async def _unmoved(path: str) -> str:
    return path


def open_page(page: Any, host: str, port: int) -> str:
    """Serve a page from threads of this process, and return its address.

    Raises:
        ConfigError: the host or the port cannot be used.
    """
    from gradio.themes import Default
    from httpx import HTTPError, InvalidURL

    place = {"server_name": host, "server_port": port, "prevent_thread_lock": True, "quiet": True}
    offline = {"share": False, "run_history": False, "enable_monitoring": False, "footer_links": []}
    theme = Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    try:
        page.launch(**place, **offline, theme=theme, max_file_size=MAX_BYTES, show_error=True)
    except (OSError, OverflowError, ValueError, HTTPError, InvalidURL) as error:
        raise ConfigError(
            f"The page cannot listen on {host}, port {port}: the port is taken or no port, or the "
            "host is no address of this machine. Choose another --port or --host."
        ) from error
    return str(page.local_url)


def answer(classifier: Classifier, image: str | Path | None, text: str | None) -> str:
    """HTML for an image file, a text, or both; an error is a message in it."""
    try:
        return _render(classifier, describe(classifier, image, text))
    except EpicError as error:
        return _render(classifier, error=str(error))


def _render(classifier: Classifier, content: PageContent | None = None, error: str = "") -> str:
    least = () if classifier.thresholds is None else classifier.thresholds.tolist()
    return render(
        "serving/templates/answer.html",
        class_names=classifier.class_names,
        thresholds=dict(zip(classifier.class_names, least, strict=False)),
        content=content,
        error=error,
        heat_png=_heat_png,
        sample_svg=sample_svg,
    )


def describe(classifier: Classifier, image: str | Path | None, text: str | None) -> PageContent:
    """Labels of a pair and of each modality alone, and what the model compares and attends to.

    Args:
        classifier: the model.
        image: an image file; None is no image.
        text: a text; None and blanks are no text.

    Raises:
        DataError: both are missing, the image cannot be read, or the text is too long.
    """
    text = (text or "").strip() or None
    if not image and text is None:
        raise DataError("There is neither an image nor a text: give one of them, or both.")
    if text is not None and len(text) > MAX_CHARACTERS:
        raise DataError(
            f"The text has {len(text):,} characters; the limit is {MAX_CHARACTERS:,}. Shorten it."
        )
    sample: Any = classifier.prepare(Item(image=_read(image) if image else None, text=text))
    both = sample["image"] is not None and sample["text"] is not None
    samples, titles = [sample], ["Image" if image else "Text"]
    if both:
        samples += [{**sample, "text": None}, {**sample, "image": None}]
        titles = ["Image and text", "Image alone", "Text alone"]
    scores = classifier.sample_probabilities(samples)
    labels = classifier.labels(scores, len(classifier.class_names))
    shown = PageContent(dict(zip(titles, labels, strict=True)))
    read = classifier.collator.max_text_tokens
    tokens = len(classifier.collator.tokenizer(sample["text"] or "")["input_ids"])
    if tokens > read:
        shown.notes.append(f"The text has {tokens} tokens; the model reads the first {read}.")
    if never := " or its ".join(classifier.never_missing):
        shown.notes.append(
            f"No training sample lacked its {never}, so labels without it are untrained."
        )
    try:
        model = classifier.module.model
    except ConfigError:
        shown.notes.append("An exported model shows labels only.")
        return shown
    if sample["image"] is not None:
        shown.photo = jpeg(as_pil_image(sample["image"], classifier.image_preprocessing))
    if both:
        _compare(shown, classifier, sample)
    if isinstance(model, EPIC):
        try:
            shown.explanation = explain_sample(
                classifier.module, classifier.collator, classifier.image_preprocessing, sample
            )
        except EpicError as error:
            shown.notes.append(str(error))
    return shown


def _read(file: str | Path) -> Image.Image:
    try:
        content = Path(file).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL character
        raise DataError("The image is no file on this machine: upload it again.") from error
    return read_image(content)


@torch.inference_mode()
def _compare(shown: PageContent, classifier: Classifier, sample: Sample) -> None:
    """Add the cosines of what the model compares, and the words of the text's parts."""
    module, model = classifier.module, classifier.module.model
    batch = module.transfer_batch_to_device(classifier.collator([sample]), module.device, 0)
    compared = module(batch).compared
    if compared is None:
        return
    image, text = (F.normalize(side[0].float().cpu(), dim=-1) for side in compared)
    cosines = image @ text.T  # (P, n)
    head, parts = model.head.similarity, [p for p in model.modules() if isinstance(p, TextParts)]
    if head is not None and model.matcher is head.cosine:
        shown.similarity = cosines.item()
        return
    if not parts:  # prompts, whose exchanges are part of the explanation
        return
    tokens = model.text_tower.extract(batch["input_ids"], batch["attention_mask"].bool(), None)
    weights = parts[0].weights(tokens.entered, tokens.mask)[0].float().cpu()  # (n, N)
    words, shares = word_shares(classifier.collator, str(sample["text"]), weights)
    listed = [_list_words(words, row) for row in shares]
    shown.parts = list(zip(listed, cosines.T, strict=True))


def _list_words(words: list[str], shares: Tensor) -> str:
    """The words with the largest shares ``(W,)``, in the order of the text."""
    largest = shares.sort(descending=True).values[:_WORDS]
    least = max([_LEAST_SHARE, *largest.tolist()[-1:]])
    pairs = zip(words, shares.tolist(), strict=True)
    listed = [f"“{word}” {share:.0%}" for word, share in pairs if share >= least]
    return ", ".join(listed) or f"no word above {_LEAST_SHARE:.0%}"


def _heat_png(values: Tensor) -> bytes:
    """A heat map of one pixel a patch: transparent where ``values (P,)`` are 0."""
    side = grid_side(values.numel())
    shares = (values / values.max().clamp(min=1e-12)).view(side, side)
    buffer = io.BytesIO()
    Image.fromarray(HEAT(shares.numpy(), bytes=True)).save(buffer, "PNG")
    return buffer.getvalue()
