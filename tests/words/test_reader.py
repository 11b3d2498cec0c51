"""Words in images: what RapidOCR reads, in the image's own coordinates, without a network."""

from __future__ import annotations

import json
import socket
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageDraw, ImageFont, ImageOps

import perception_encoder as pe
from perception_encoder.errors import InputError, MediaDecodeError, MissingExtraError
from perception_encoder.words import reader
from perception_encoder.words.reader import LONGEST_SIDE, WordReader
from tests.clips import clip

rapidocr = pytest.importorskip("rapidocr")
LINES = ["Invoice 2024", "Total 41,20 EUR"]


def texts(media: object, **options: Any) -> list[str]:
    return [line.text for line in pe.read_words(media, **options)]


def test_lines_and_boxes_are_rapidocr_s(written: Image.Image) -> None:
    engine = rapidocr.EngineType.OPENVINO
    direct = rapidocr.RapidOCR(params={f"{part}.engine_type": engine for part in ("Det", "Cls", "Rec")})
    expected = direct(np.asarray(written)[..., ::-1])
    lines = pe.read_words(written)
    assert [line.text for line in lines] == list(expected.txts) == LINES
    boxes = np.reshape([line.box for line in lines], (-1, 4, 2)) * written.size
    np.testing.assert_allclose(boxes, expected.boxes, atol=1e-3)
    np.testing.assert_allclose([line.confidence for line in lines], expected.scores, atol=1e-3)
    assert lines[0].to_dict() == {"text": LINES[0], "confidence": lines[0].confidence, "box": list(lines[0].box)}


def test_an_image_is_turned_upright(written: Image.Image, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    written.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    upright, turned = pe.read_words(written), pe.read_words(tmp_path / "turned.jpg")
    assert [line.text for line in turned] == LINES
    np.testing.assert_allclose([line.box for line in turned], [line.box for line in upright], atol=0.02)


def test_a_large_image_is_reduced(written: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Boxes are shares of its sides, whatever its size."""
    reader, sizes = WordReader.shared(), []
    run = reader._ocr

    def record(pixels: np.ndarray) -> object:
        sizes.append(max(pixels.shape))
        return run(pixels)

    monkeypatch.setattr(reader, "_ocr", record)
    written.resize((5120, 3840)).save(tmp_path / "large.jpg")
    large = pe.read_words(tmp_path / "large.jpg")
    assert sizes == [LONGEST_SIDE] and [line.text for line in large] == LINES
    np.testing.assert_allclose([line.box for line in large], [line.box for line in pe.read_words(written)], atol=0.02)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK"])
def test_any_mode(written: Image.Image, mode: str) -> None:
    assert texts(written.convert(mode)) == LINES


@pytest.mark.parametrize("level", [0, 255])
@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_letters_without_a_background(written: Image.Image, mode: str, level: int) -> None:
    image = Image.new(mode, written.size, (level,) * (len(mode) - 1) + (0,))
    image.putalpha(ImageOps.invert(written.convert("L")))
    assert texts(image) == LINES


def test_lines_of_a_large_image_are_found_in_a_smaller_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """But read in the large one."""
    detector, sizes = WordReader.shared()._ocr.text_det, []
    run = detector.session

    def record(pixels: np.ndarray) -> object:
        sizes.append(max(pixels.shape[2:]))
        return run(pixels)

    monkeypatch.setattr(detector, "session", record)
    image = Image.new("RGB", (2000, 1500), "white")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(24)
    for row in range(8):
        pen.text((100, 100 + 60 * row), "Harbour kitchen", "black", font)
    assert texts(image) == ["Harbour kitchen"] * 8
    pe.read_words(image.resize((400, 300)))
    assert sizes == [1280, 992]


@pytest.mark.parametrize("size", [(1, 1), (31, 500), (2000, 33), (40, 3000), (64, 64)])
def test_an_image_without_words(size: tuple[int, int]) -> None:
    assert pe.read_words(Image.new("RGB", size, "white")) == []


@pytest.mark.parametrize("size", [(20, 3000), (3000, 20), (9, 9), (500, 31), (2000, 2000)])
def test_a_narrow_image_costs_no_more_than_a_square_one(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The detector enlarges an image until the short side is long enough: 736 by 368,000 pixels for 4 by 2,000."""
    reader, shapes = WordReader.shared(), list[tuple[int, int]]()

    def note(pixels: np.ndarray) -> SimpleNamespace:
        shapes.append(pixels.shape[:2])
        return SimpleNamespace(boxes=np.array([[[0, 0], [1, 0], [1, 1], [0, 1]]]), txts=("a",), scores=(0.9,))

    monkeypatch.setattr(reader, "_ocr", note)
    (line,) = reader.read(Image.new("RGB", size), "image")
    (shape,) = shapes
    assert min(shape) >= 32 and max(shape) <= LONGEST_SIDE and max(shape) <= 8 * min(shape) + 7
    width = size[0] * min(1, LONGEST_SIDE / max(size))
    assert max(line.box) <= 1 and line.box[2] == pytest.approx(1 / width, rel=0.1)  # a share of the image, not padding


def test_doubtful_lines_are_left_out(written: Image.Image) -> None:
    assert texts(written, min_confidence=1.01) == []


def test_nothing_is_asked_of_the_network(written: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert [line.text for line in WordReader().read(written, "image")] == LINES


@pytest.mark.parametrize(
    ("media", "reason"),
    [("no words here", "no such file"), (b"x", "image"), (np.zeros((2, 9, 9, 3), np.uint8), "video")],
)
def test_other_inputs_are_refused(media: object, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        pe.read_words(media)


def test_a_reader_that_fails_names_the_image(written: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(WordReader.shared(), "_ocr", fail)
    with pytest.raises(MediaDecodeError, match=r"sign\.png: its words cannot be read: no memory"):
        WordReader.shared().read(written, "sign.png")


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    with pytest.raises(MissingExtraError, match="words"):
        WordReader()


def test_the_command(run_pe: Callable[..., Any], written: Image.Image, tmp_path: Path) -> None:
    """Prints a table or JSON; a bad image is one skipped row with its reason."""
    written.save(tmp_path / "a.png")
    (tmp_path / "b.jpg").write_bytes(b"broken")
    table = run_pe("words", tmp_path)
    assert [row.split("\t")[1] for row in table.stdout.splitlines()[1:]] == LINES
    assert table.status == 0 and "b.jpg" in table.stderr
    found = json.loads(run_pe("words", tmp_path, "--json").stdout)
    (image,) = found["images"]
    assert [line["text"] for line in image["lines"]] == LINES and len(image["lines"][0]["box"]) == 8
    assert len(found["skipped"]) == 1 and run_pe("words", tmp_path, "--strict").status == 1


def test_moments_of_a_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has its own lines."""
    (tmp_path / "clip.mp4").write_bytes(clip())
    moments = [f"{tmp_path / 'clip.mp4'}@{at}s" for at in (0.5, 2)]
    monkeypatch.setattr(reader, "read_words", lambda media: [media.start])
    found, failures = reader.read_all_words(moments, Counter())
    assert (found, failures) == ({moments[0]: [0.5], moments[1]: [2.0]}, [])
