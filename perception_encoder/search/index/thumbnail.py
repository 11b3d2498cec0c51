"""Small JPEGs of images, for an index and for pages."""

from __future__ import annotations

import io

from PIL import Image


def encode_thumbnail(image: Image.Image, side: int) -> bytes:
    """Return a JPEG whose longest side is at most `side` pixels; transparent parts become white."""
    image = image.copy()
    image.thumbnail((side, side), reducing_gap=1.0)  # large ones are averaged first, which takes half the time
    if image.mode in ("RGBA", "LA"):
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=82, optimize=True)
    return buffer.getvalue()
