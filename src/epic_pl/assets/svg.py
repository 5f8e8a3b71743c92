"""Rendering of SVG drawings."""

from epic_pl.errors import AssetError


def draw_svg(svg: str, size: int) -> bytes:
    """A drawing as PNG on white, ``size`` pixels wide and high.

    Raises:
        AssetError: resvg-py is missing.
    """
    try:
        from resvg_py import svg_to_bytes
    except ModuleNotFoundError as error:
        raise AssetError(
            "Drawing the emoji images needs the package resvg-py: pip install resvg-py."
        ) from error
    # the images have no text, and loading fonts takes longer than drawing
    return bytes(
        svg_to_bytes(svg, background="#ffffff", width=size, height=size, skip_system_fonts=True)
    )
