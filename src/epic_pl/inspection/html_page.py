"""Self-contained HTML pages from the package's templates."""

import base64
import io
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render(template: str, **content: Any) -> str:
    """Render a template, named by its path in the package; all content is escaped."""
    return _ENVIRONMENT.get_template(template).render(**content)


def png(figure: Any, dpi: int = 80) -> bytes:
    """A matplotlib figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight")
    return buffer.getvalue()


def jpeg(image: Any) -> bytes:
    """A Pillow image as JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG")
    return buffer.getvalue()


def _data_uri(image: bytes) -> str:
    """Data URI of a PNG or JPEG for an ``img`` element."""
    kind = "png" if image.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


_ENVIRONMENT = Environment(
    loader=PackageLoader("epic_pl", "."),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters["data_uri"] = _data_uri
