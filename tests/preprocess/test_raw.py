"""RAW photographs: DNGs made here, with and without previews, turned, damaged, and without rawpy."""

from __future__ import annotations

import io
import sys
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin

from perception_encoder.errors import MediaDecodeError, MediaTooLargeError
from perception_encoder.preprocess import budget, raw
from perception_encoder.preprocess.image import count_pixels, open_image, read_header
from perception_encoder.preprocess.media import sniff
from tests.raw_photos import HEIGHT, WIDTH, write_dng

needs_rawpy = pytest.mark.skipif(not raw.reads_raw(), reason="needs the extra raw")


def colours(image: Image.Image) -> list[str]:
    """The strongest channel at the middles of the upper and the lower half."""
    pixels = np.asarray(image.convert("RGB"))
    height, width = pixels.shape[:2]
    return ["RGB"[int(pixels[row, width // 2].argmax())] for row in (height // 4, 3 * height // 4)]


@needs_rawpy
@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("in_memory", [False, True])
def test_without_a_preview_the_sensor_is_read_at_half_size_and_upright(
    tmp_path: Path, orientation: int, in_memory: bool
) -> None:
    data = write_dng(orientation=orientation)
    (tmp_path / "ä.dng").write_bytes(data)
    source = data if in_memory else tmp_path / "ä.dng"
    admitted: list[int] = []
    image = open_image(source, admit=admitted.append)
    upright = (WIDTH, HEIGHT) if orientation < 5 else (HEIGHT, WIDTH)
    assert image.size == (upright[0] // 2, upright[1] // 2) and colours(image) == ["R", "B"]
    assert admitted == [budget.PIXEL_BYTES * WIDTH * HEIGHT] and count_pixels(source) == WIDTH * HEIGHT
    assert read_header(source).size == upright


@needs_rawpy
@pytest.mark.parametrize(
    ("preview", "least", "used"),
    [((160, 128), None, True), ((80, 64), None, True), ((78, 62), None, False), ((50, 40), 40, True)],
)
def test_a_preview_is_used_if_it_is_large_enough(preview: tuple[int, int], least: int | None, used: bool) -> None:
    data = write_dng(preview=preview, orientation=6)
    image = open_image(data, reduce_to=least)
    assert image.size == (preview[::-1] if used else (HEIGHT // 2, WIDTH // 2))
    assert colours(image) == (["G", "G"] if used else ["R", "B"])
    header = read_header(data)
    assert (header.size, header.taken.date) == ((HEIGHT, WIDTH), datetime(2024, 7, 31, 18, 5))


@needs_rawpy
@pytest.mark.parametrize("preview", [None, (160, 128)])
def test_a_damaged_one_is_one_line(tmp_path: Path, preview: tuple[int, int] | None) -> None:
    path, data = tmp_path / "a.dng", write_dng(preview=preview)
    for damaged in (data[: len(data) // 2], data[:100], data[:8] + b"\xff" * (len(data) - 8), b"II*\0" + data[:1000]):
        path.write_bytes(damaged)
        with pytest.raises(MediaDecodeError, match=r"a\.dng: .+") as error:
            open_image(path)
        assert "\n" not in str(error.value) and "b'" not in str(error.value)


@needs_rawpy
def test_a_preview_counts_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_dng(preview=(320, 256), orientation=6)
    admitted: list[tuple[int, int]] = []
    load = JpegImagePlugin.JpegImageFile.load
    monkeypatch.setattr(
        JpegImagePlugin.JpegImageFile, "load", lambda image: (admitted.append(image.size), load(image))[1]
    )
    assert open_image(data, reduce_to=100, admit=lambda size: admitted.append((size, 0))).size == (128, 160)
    assert admitted[:2] == [(budget.PIXEL_BYTES * 160 * 128, 0), (160, 128)]  # and the decoder halved it
    monkeypatch.setattr(budget, "MAX_BYTES", budget.PIXEL_BYTES * WIDTH * HEIGHT)
    with pytest.raises(MediaTooLargeError, match="81,920 pixels; the limit is 20,480"):
        open_image(data)


@needs_rawpy
def test_the_sensor_counts_for_the_pixel_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "MAX_PIXELS", WIDTH * HEIGHT - 1)
    monkeypatch.setattr(budget, "MAX_BYTES", budget.PIXEL_BYTES * (WIDTH * HEIGHT - 1))
    with pytest.raises(MediaTooLargeError, match="20,480 pixels; the limit is 20,479"):
        open_image(write_dng(preview=(160, 128)))


def test_without_rawpy_one_line_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw, "reads_raw", lambda: False)
    monkeypatch.setitem(sys.modules, "rawpy", None)
    (tmp_path / "a.nef").write_bytes(write_dng())
    with pytest.raises(MediaDecodeError, match=r"a\.nef: .*\[raw\]"):
        open_image(tmp_path / "a.nef")


@pytest.mark.parametrize(
    ("head", "is_raw"),
    [
        (b"FUJIFILMCCD-RAW 0201", True),
        (b"IIRO\x08\0\0\0", True),
        (b"IIU\0\x18\0\0\0", True),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", True),
        (b"II*\0\x10\0\0\0CR\2\0", True),
        (b"II*\0\x10\0\0\0\0\0\0\0", False),
        (b"\0\0\0\x18ftypheic\0\0\0\1mif1", False),
    ],
)
def test_formats_are_told_by_their_first_bytes(head: bytes, is_raw: bool) -> None:
    assert raw.is_raw(io.BytesIO(head)) == is_raw and sniff(head) == "image"
