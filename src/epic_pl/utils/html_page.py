"""Self-contained HTML pages from the package's templates, and the style of all figures."""

import base64
import io
import re
import warnings
from functools import partial
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib import rc_context
from matplotlib.colors import LinearSegmentedColormap

# all are legible on white and on black
BLUE, ORANGE, GREY = "#3b7dd8", "#dd7a31", "#8a8a8a"
# from transparent: for numbers on any background, and for attention on an image
SHADES = LinearSegmentedColormap.from_list("shades", [f"{BLUE}00", BLUE])
HEAT = LinearSegmentedColormap.from_list("heat", ["#d92b0400", "#d92b04"])
MISSING_GLYPH = r"Glyph .* missing from"
"""Matplotlib's warning about a character that its font lacks, which is drawn as a box."""
_STYLE: Any = {
    "axes.prop_cycle": f"cycler('color', ['{BLUE}', '{ORANGE}', '{GREY}'])",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": "medium",
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "epic_pl",  # the same file in every run
}
plot_style = partial(rc_context, _STYLE)
"""The style of all figures while they are drawn; a decorator, too."""
# an SVG in a page follows its reader's colours, also those that matplotlib leaves out as black
_INK = (
    b":root{color:#1b1b1b;fill:currentColor}@media(prefers-color-scheme:dark){:root{color:#e4e4e4}}"
)


def render(template: str, **content: Any) -> str:
    """Render a template, named by its path in the package; all content is escaped."""
    return _ENVIRONMENT.get_template(template).render(**content)


def png(figure: Any) -> bytes:
    """A matplotlib figure as PNG."""
    return _saved(figure, format="png", dpi=150)


def svg(figure: Any) -> bytes:
    """A matplotlib figure as SVG whose black is the text colour of light and dark pages."""
    drawn = _saved(figure, format="svg", transparent=True, metadata={"Date": None})
    drawn = re.sub(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]", b"?", drawn)  # XML has none of these
    drawn = re.sub(rb"((?:fill|stroke): ?)#000000", rb"\1currentColor", drawn)
    return drawn.replace(b"*{", _INK + b"*{", 1)


def _saved(figure: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    with plot_style(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=MISSING_GLYPH)
        figure.savefig(buffer, bbox_inches="tight", **options)
    return buffer.getvalue()


def shorten(name: str, most: int) -> str:
    """A name of at most ``most`` letters, for a figure."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def jpeg(image: Any) -> bytes:
    """A Pillow image as JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG")
    return buffer.getvalue()


def _data_uri(image: bytes) -> str:
    """Data URI of an SVG, PNG or JPEG for an ``img`` element."""
    starts = {b"<?xml": "svg+xml", b"\x89PNG": "png"}
    kind = next((kind for start, kind in starts.items() if image.startswith(start)), "jpeg")
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


_ENVIRONMENT = Environment(
    loader=PackageLoader("epic_pl", "."),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters["data_uri"] = _data_uri
