"""Draw an SVG over white as a square RGB image.

The drawing is cut to what it inks, scaled so that its longer side fills the square less a margin, and centred.
Files and addresses that an SVG refers to are never read.
"""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image

from perception_encoder.errors import MediaDecodeError, one_line
from synthetic.errors import MissingGroupError

MARGIN = 0.04  # of the side, on each side
FIRST_SCALE = 2  # the first rendering, by which the inked box is found, in multiples of the side
LARGEST_SCALE = 16  # drawings that ink less than about 1/16 of their page come out soft


def rasterize(svg: bytes, side: int, name: str) -> Image.Image:
    """Draw `svg` over white, (side, side) RGB; `MediaDecodeError` under `name` if it cannot be drawn or is empty."""
    scale = FIRST_SCALE
    image = _render(svg, scale * side, name)
    box = _inked_box(image)
    if box is None:
        raise MediaDecodeError(name, "draws nothing")
    target = round(side * (1 - 2 * MARGIN))
    inked = max(box[2] - box[0], box[3] - box[1])
    if inked < target:
        scale = min(LARGEST_SCALE, -(-scale * target // inked))
        image = _render(svg, scale * side, name)
        box = _inked_box(image) or box
    drawing = image.crop(box)
    factor = target / max(drawing.size)
    size = (max(1, round(drawing.width * factor)), max(1, round(drawing.height * factor)))
    drawing = drawing.resize(size, Image.Resampling.LANCZOS)
    square = Image.new("RGB", (side, side), "white")
    square.paste(drawing, ((side - size[0]) // 2, (side - size[1]) // 2))
    return square


def _render(svg: bytes, side: int, name: str) -> Image.Image:
    try:
        from cairosvg import svg2png
    except ImportError as error:
        raise MissingGroupError("cairosvg") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            png = svg2png(bytestring=svg, output_width=side, output_height=side, background_color="white")
        with Image.open(io.BytesIO(png)) as image:
            return image.convert("RGB")
    except Exception as error:  # cairosvg raises whatever the damaged file leads it to
        raise MediaDecodeError(name, f"cannot be drawn ({type(error).__name__}: {one_line(error)})") from error


def _inked_box(image: Image.Image) -> tuple[int, int, int, int] | None:
    """The smallest box that holds every pixel that is not white, as (left, top, right, bottom)."""
    inked = np.asarray(image).min(axis=2) < 250
    rows, columns = np.flatnonzero(inked.any(axis=1)), np.flatnonzero(inked.any(axis=0))
    if rows.size == 0:
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
