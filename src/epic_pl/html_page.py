"""Pieces of HTML pages that need no other file."""

import base64
import io
from typing import Any

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse}td,th{padding:.2rem .8rem;text-align:right}
td:first-child,th:first-child{text-align:left}.verdict{font-size:1.2rem;font-weight:600}
.error{color:#b00020}.warning{color:#8a5a00}.note{color:#555}small{color:#555}
.samples{display:flex;flex-wrap:wrap;gap:1rem}figure{width:160px;margin:0}
figcaption{font-size:12px;overflow-wrap:anywhere}img{max-width:100%}
"""


def inline_picture(data: bytes, kind: str) -> str:
    """An element that holds a picture's bytes; ``kind`` is png or jpeg."""
    return f"<img alt='' src='data:image/{kind};base64,{base64.b64encode(data).decode()}'>"


def png(figure: Any, dpi: int = 80) -> bytes:
    """A matplotlib figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight")
    return buffer.getvalue()


def jpeg(picture: Any) -> bytes:
    """A Pillow picture as JPEG."""
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG")
    return buffer.getvalue()
