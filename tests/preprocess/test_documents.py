"""Pages of PDFs: which, how large, and the errors of bad files."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from perception_encoder.errors import InputError, MediaDecodeError, MediaTooLargeError
from perception_encoder.preprocess import documents
from perception_encoder.preprocess.documents import PAGES, open_pdf_pages
from perception_encoder.preprocess.image import image_file
from perception_encoder.preprocess.tiling import tile_grid
from tests.pdfs import pdf, pdf_of_image, pdf_of_nested_forms

pytestmark = pytest.mark.security

A4 = (595, 842)


def colours(images: list[Image.Image]) -> list[tuple[int, int, int]]:
    return [image.getpixel((image.width // 2, image.height // 2)) for image in images]


def test_pages_are_chosen_by_number() -> None:
    document = pdf([A4] * 3)
    red, green, blue = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    assert colours(open_pdf_pages(document)) == [red, green, blue]
    assert colours(open_pdf_pages(document, pages=[3, 1])) == [blue, red]
    with pytest.raises(InputError, match="a.pdf: has pages 1 to 3; there is no page 4".replace(".", r"\.")):
        open_pdf_pages(document, "a.pdf", [1, 4])


@pytest.mark.parametrize("size", [A4, (1400, 400)])
@pytest.mark.parametrize(("tile", "budget"), [(448, 36), (448, 0)])
def test_a_page_covers_its_tiles_and_no_more(size: tuple[int, int], tile: int, budget: int) -> None:
    (page,) = open_pdf_pages(pdf([size]), tile=tile, budget=budget)
    columns, rows = tile_grid(size[0] * 1000, size[1] * 1000, tile, max(1, budget))
    spare = (page.width - columns * tile, page.height - rows * tile)
    assert min(spare) in (0, 1) and page.mode == "RGB"  # a side is rounded up
    assert abs(page.width / page.height - size[0] / size[1]) < 0.02


def test_a_long_document_gives_its_first_pages_and_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert len(open_pdf_pages(pdf([A4] * (PAGES + 2)), "long.pdf", budget=1)) == PAGES
    assert caplog.messages == [f"long.pdf: has {PAGES + 2} pages; reading the first {PAGES}: choose others with pages"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pdf([A4], encrypted=True), "is encrypted; save it without a password first"),
        (pdf([A4])[:200], "is a damaged PDF: "),
        (b"%PDF-1.4\nnothing", "is a damaged PDF: "),
        (b"", "is empty"),
    ],
)
def test_bad_files_are_clear_errors(content: bytes, message: str) -> None:
    with pytest.raises(MediaDecodeError, match=f"a.pdf: {message}"):
        open_pdf_pages(content, "a.pdf")


@pytest.mark.parametrize("size", [(1, 99_999_999), (14_401, 14_401), (1, 101)])
def test_a_page_of_absurd_size_is_refused(size: tuple[int, int]) -> None:
    """Before: a side of 99,999,999 points took 4.3 GB."""
    with pytest.raises(MediaTooLargeError, match=r"page 1 of a\.pdf: has .* points"):
        open_pdf_pages(pdf([size]), "a.pdf")


def test_a_jpeg_2000_within_a_page_is_measured_by_its_own_header() -> None:
    image = bytearray(image_file(Image.new("RGB", (8, 8), (0, 200, 0)), "JPEG2000", no_jp2=True))
    assert colours(open_pdf_pages(pdf_of_image(bytes(image), 8))) == [(0, 200, 0)]
    image[8:16] = (12_000).to_bytes(4, "big") * 2  # the codestream's own width and height
    with pytest.raises(MediaTooLargeError, match=r"page 1 of a\.pdf: has 144,000,000"):
        open_pdf_pages(pdf_of_image(bytes(image), 8), "a.pdf")


def test_a_page_that_takes_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """2 KB of forms that draw each other would take years."""
    monkeypatch.setattr(documents, "RENDER_SECONDS", 4.0)
    began = time.monotonic()
    with pytest.raises(MediaTooLargeError, match=r"a\.pdf: took more than 4 s"):
        open_pdf_pages(pdf_of_nested_forms(15, 10), "a.pdf")
    assert time.monotonic() - began < 8
    assert colours(open_pdf_pages(pdf_of_nested_forms(3, 2), "a.pdf", tile=9)) == [(255, 255, 255)]


def test_modules_of_the_current_directory_are_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("PIL", "pypdfium2", "json", "perception_encoder"):
        (tmp_path / f"{name}.py").write_text("open('imported', 'w')\n")
    assert colours(open_pdf_pages(pdf([A4]))) == [(255, 0, 0)] and not (tmp_path / "imported").exists()


def test_pages_are_rendered_from_any_thread() -> None:
    document = pdf([A4] * 3)
    with ThreadPoolExecutor(4) as pool:
        rendered = list(pool.map(lambda _: colours(open_pdf_pages(document, budget=1)), range(6)))
    assert rendered == [colours(open_pdf_pages(document, budget=1))] * 6
