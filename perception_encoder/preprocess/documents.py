"""Render PDF pages as images that fill a model's tiles (pypdfium2, in the extra `lang`).

A process of its own renders a document, since a small one may take PDFium years, which nothing else can stop.
"""

from __future__ import annotations

import io
import json
import logging
import math
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from PIL import Image

from perception_encoder import errors
from perception_encoder.errors import InputError, MediaDecodeError, MediaTooLargeError, needs_extra, one_line
from perception_encoder.preprocess.budget import MAX_PIXELS
from perception_encoder.preprocess.image import count_pixels
from perception_encoder.preprocess.source import Source, open_source
from perception_encoder.preprocess.tiling import tile_grid
from perception_encoder.records import parse_json

logger = logging.getLogger(__name__)

PAGES = 8
"""Default number of pages to read."""
MAX_SIDE = 14_400
"""Maximum length of a page's longer side in points, as in Acrobat: five metres."""
MAX_RATIO = 100
"""Maximum ratio of a page's sides; a receipt of two metres has 25."""
_LARGE = 1000
"""Pixels per point at which a page exceeds every grid of tiles."""
RENDER_SECONDS = 30.0
"""Maximum seconds to render `PAGES` pages."""


def open_pdf_pages(
    source: Source, name: str | None = None, pages: Sequence[int] | None = None, tile: int = 448, budget: int = 4
) -> list[Image.Image]:
    """Render pages of a PDF as RGB images that fill their tiles.

    Raises MediaDecodeError for an encrypted or damaged file, InputError for a page that does not exist,
    MediaTooLargeError for a page of more than `MAX_SIDE` or `MAX_RATIO` and for pages that take too long, and
    MissingExtraError. `tile`, `budget`: see `tile_grid`.

    `pages`: numbers from 1, in any order; by default the first `PAGES`, with a logged warning if there are more.
    """
    with needs_extra("lang", "pypdfium2"):
        import pypdfium2  # noqa: F401
    with open_source(source, name) as (stream, name):
        content = stream.read()
    request = json.dumps({"name": name, "pages": pages, "tile": tile, "budget": budget}).encode() + b"\n"
    command = [sys.executable, "-P", "-c", f"from {__name__} import answer_request; answer_request()"]
    seconds = RENDER_SECONDS * max(1.0, len(pages or ()) / PAGES)
    try:
        done = subprocess.run(command, input=request + content, capture_output=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        raise MediaTooLargeError(name, f"took more than {seconds:g} s to render, the limit") from None
    head, _, pixels = done.stdout.partition(b"\n")
    if done.returncode or not head:
        reason = done.stderr.decode(errors="replace").strip().rpartition("\n")[2] or f"status {done.returncode}"
        raise MediaDecodeError(name, f"ended the process that renders it: {reason}")
    answer = parse_json(head, dict[str, Any])
    if "error" in answer:
        raise getattr(errors, answer["error"])(answer["path"], answer["reason"])
    if pages is None and answer["total"] > PAGES:
        logger.warning("%s: has %d pages; reading the first %d: choose others with pages", name, answer["total"], PAGES)
    stream = io.BytesIO(pixels)
    return [Image.frombytes("RGB", size, stream.read(3 * math.prod(size))) for size in map(tuple, answer["sizes"])]


def answer_request() -> None:
    """Answer a request of `open_pdf_pages` on standard input: a line of JSON, then the PDF or the images' pixels."""
    request = parse_json(sys.stdin.buffer.readline(), dict[str, Any])
    try:
        total, images = _render_pages(sys.stdin.buffer.read(), **request)
        head: dict[str, Any] = {"total": total, "sizes": [image.size for image in images]}
    except InputError as error:
        head, images = {"error": type(error).__name__, **error.to_dict()}, []
    sys.stdout.buffer.write(json.dumps(head).encode() + b"\n")
    for image in images:
        sys.stdout.buffer.write(image.tobytes())


def _render_pages(
    content: bytes, name: str, pages: Sequence[int] | None, tile: int, budget: int
) -> tuple[int, list[Image.Image]]:
    """Return the number of a PDF's pages, and the requested ones as RGB images."""
    import pypdfium2

    try:
        with pypdfium2.PdfDocument(content) as document:
            total = len(document)
            if total == 0:
                raise MediaDecodeError(name, "has no pages")
            numbers = range(1, min(total, PAGES) + 1) if pages is None else pages
            if missing := [number for number in numbers if not 1 <= number <= total]:
                raise InputError(name, f"has pages 1 to {total}; there is no page {missing[0]}")
            return total, [_render(document[n - 1], tile, budget, f"page {n} of {name}") for n in numbers]
    except pypdfium2.PdfiumError as error:
        if "password" in str(error).lower() or "security" in str(error).lower():
            raise MediaDecodeError(name, "is encrypted; save it without a password first") from None
        raise MediaDecodeError(name, f"is a damaged PDF: {one_line(error)}") from error


def _render(page: Any, tile: int, budget: int, name: str) -> Image.Image:
    """Render a page at the smallest scale that fills its tiles."""
    width, height = page.get_size()  # points
    if not max(width, height) <= min(MAX_SIDE, MAX_RATIO * min(width, height)):
        limits = f"a side has at most {MAX_SIDE:,}, and {MAX_RATIO} times the other"
        raise MediaTooLargeError(name, f"has {width:,.6g} x {height:,.6g} points; {limits}")
    _check_images(page, name)
    columns, rows = tile_grid(math.ceil(width * _LARGE), math.ceil(height * _LARGE), tile, max(1, budget))
    scale = max(columns * tile / width, rows * tile / height)
    scale = min(scale, math.sqrt(MAX_PIXELS / (width * height)))
    image: Image.Image = page.render(scale=scale).to_pil()
    return image.convert("RGB")


def _check_images(page: Any, name: str) -> None:
    """Raise MediaTooLargeError for an oversized JPEG 2000: PDFium decodes it whole, whatever the PDF says.

    PDFium decodes other images line by line. It does not list images in patterns, masks and fonts.
    """
    import pypdfium2.raw as pdfium

    for image in page.get_objects(filter=[pdfium.FPDF_PAGEOBJ_IMAGE]):
        if "JPXDecode" in image.get_filters():
            count_pixels(bytes(image.get_data()), name)
