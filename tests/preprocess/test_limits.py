"""Limits of memory and time while images are opened: nothing waits for itself, and few bytes are little work."""

from __future__ import annotations

import io
import struct
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from perception_encoder.errors import InputError, MediaDecodeError, MediaTooLargeError
from perception_encoder.preprocess import image as module
from perception_encoder.preprocess.budget import ByteBudget
from perception_encoder.preprocess.image import image_file, open_image

SECONDS = 20.0


def in_time(work: Callable[[], Any]) -> Any:
    """The result of `work`, or its error; a failure if it takes too long, whose thread is left behind."""
    found: list[Any] = []

    def keep() -> None:
        try:
            found.append(work())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=keep, daemon=True)
    thread.start()
    thread.join(SECONDS)
    assert found, "it never ends"
    return found[0]


def noise(width: int = 640, height: int = 480) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def encoded(format: str, **options: Any) -> bytes:
    if format == "HEIF":
        pillow_heif.register_heif_opener()
    return image_file(noise(), format, **options)


DAMAGED: dict[str, Callable[[], bytes]] = {
    "only the header of a PPM": lambda: b"P6\n13000 13000\n255\n",
    "PNG": lambda: encoded("PNG"),
    "TIFF": lambda: encoded("TIFF", compression="tiff_adobe_deflate"),
    "HEIC": lambda: encoded("HEIF", quality=90),
    "WebP": lambda: encoded("WEBP", quality=90),
    "AVIF": lambda: encoded("AVIF", quality=90),
    "JPEG 2000": lambda: encoded("JPEG2000"),
    "JPEG": lambda: encoded("JPEG", quality=90),
    "progressive JPEG": lambda: encoded("JPEG", quality=90, progressive=True),
}


@pytest.mark.parametrize("side", [None, 100, 400])
@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_image_above_the_budget_is_an_error(kind: str, side: int | None) -> None:
    whole, budget = DAMAGED[kind](), ByteBudget(1000)
    data = whole if kind.startswith("only") else whole[: len(whole) // 2]

    def opened() -> Image.Image:
        with budget.admission() as admit:
            return open_image(data, "x", reduce_to=side, admit=admit)

    assert isinstance(in_time(opened), MediaDecodeError)
    with budget.holding(2000):  # all of it is free again
        pass


def test_only_what_was_reduced_is_decoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded, decode = [], module.plain_image
    monkeypatch.setattr(module, "plain_image", lambda image: decoded.append(image.size) or decode(image))
    for kind in DAMAGED:
        decoded.clear()
        with pytest.raises(MediaDecodeError):
            open_image(DAMAGED[kind]()[:5000], reduce_to=100)
        assert len(decoded) <= 1 or ("JPEG" in kind and decoded == [(160, 120), (640, 480)]), kind


def test_the_whole_image_takes_the_place_of_the_reduced_one(monkeypatch: pytest.MonkeyPatch) -> None:
    decode, sizes = module.plain_image, []

    def failing(image: Image.Image) -> Image.Image:
        if image.size != (640, 480):
            raise OSError("the reduced one")
        return decode(image)

    monkeypatch.setattr(module, "plain_image", failing)
    budget = ByteBudget(8 * 640 * 480)
    with budget.admission() as admit:

        def counted(size: int) -> None:
            admit(size)
            sizes.append((size, budget._held))

        assert in_time(lambda: open_image(encoded("JPEG"), reduce_to=100, admit=counted)).size == (640, 480)
    assert sizes == [(8 * 160 * 120, 8 * 160 * 120), (8 * 640 * 480, 8 * 640 * 480)]


def test_a_thread_that_asks_twice_is_an_error_and_keeps_nobody_waiting() -> None:
    budget = ByteBudget(10)

    def twice() -> None:
        with budget.holding(8), budget.holding(8):
            pass

    assert "already holds" in str(in_time(twice))

    def wrong() -> None:
        with budget.holding("8"):  # type: ignore[arg-type]
            pass

    with budget.holding(1):
        assert isinstance(in_time(wrong), TypeError)  # while it had the turn
    assert in_time(lambda: budget.holding(20).__enter__()) is None


def repeated(jpeg: bytes, scans: int, between: bytes = b"") -> bytes:
    """The JPEG with its last scan repeated until there are so many in all."""
    scan = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    missing = scans - sum(marker == 0xDA for marker in markers(jpeg))
    return jpeg[:-2] + (between + scan) * missing + jpeg[-2:]


def markers(jpeg: bytes) -> list[int]:
    """The markers of a JPEG's segments, by a walk over all bytes."""
    found, at = [], 2
    while at < len(jpeg) - 1:
        if jpeg[at] != 0xFF or jpeg[at + 1] in (0, 0xFF, *range(0xD0, 0xD8)):
            at += 1
            continue
        found.append(jpeg[at + 1])
        at += 2 if jpeg[at + 1] == 0xD9 else 2 + struct.unpack(">H", jpeg[at + 2 : at + 4])[0]
    return found


def sequential() -> bytes:
    """A JPEG that is not progressive, with a scan for each colour: one of its tables and scans, in turn."""
    data = image_file(noise().convert("L"), "JPEG", quality=90)
    frame, scan = data.index(b"\xff\xc0"), data.index(b"\xff\xda")
    size = data[frame + 4 : frame + 9]
    colours = b"".join(bytes([number, 0x11, 0]) for number in (1, 2, 3))
    header = b"\xff\xc0\0\x11" + size + b"\3" + colours
    body = data[scan + 10 : -2]
    scans = b"".join(b"\xff\xda\0\x08\x01" + bytes([number]) + b"\0\0\x3f\0" + body for number in (1, 2, 3))
    return data[:frame] + header + data[frame + 13 : scan] + scans + data[-2:]


PROGRESSIVE: dict[str, Callable[[], bytes]] = {
    "progressive": lambda: encoded("JPEG", progressive=True),
    "a scan for each colour": sequential,
    "with restarts": lambda: encoded("JPEG", progressive=True, restart_marker_blocks=3),
    "grey": lambda: image_file(noise().convert("L"), "JPEG", progressive=True),
    "MPO": lambda: encoded("MPO", progressive=True, save_all=True, append_images=[noise()]),
}


@pytest.mark.parametrize("side", [None, 100])
@pytest.mark.parametrize("kind", [kind for kind in PROGRESSIVE if kind != "MPO"])
def test_a_jpeg_of_too_many_scans_is_refused(kind: str, side: int | None) -> None:
    data = PROGRESSIVE[kind]()
    assert open_image(data, reduce_to=side).convert("RGB").getbbox() is not None
    open_image(repeated(data, 100), reduce_to=side)
    for between in (b"", b"\xff\xff\xff", b"\xff\xfe\0\6\xff\xd9\xff\xd9", b"\xff\xd3\0"):  # fill, a comment, a restart
        with pytest.raises(MediaTooLargeError, match="more than 100 scans"):
            open_image(repeated(data, 101, between), reduce_to=side)


def test_scans_of_an_mpos_first_image_count() -> None:
    data = PROGRESSIVE["MPO"]()
    assert open_image(data).size == (640, 480)
    end = data.index(b"\xff\xd9", data.index(b"\xff\xda"))
    with pytest.raises(MediaTooLargeError, match="more than 100 scans"):
        open_image(repeated(data[: end + 2], 101) + data[end + 2 :])


def test_scans_and_pixels_count_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SCANNED_PIXELS", 20 * 640 * 480)
    data = PROGRESSIVE["progressive"]()
    assert open_image(repeated(data, 20)).size == (640, 480)
    with pytest.raises(MediaTooLargeError, match="more than 20 scans of 307,200 pixels"):
        open_image(repeated(data, 21))


def test_what_only_looks_like_a_scan_does_not_count() -> None:
    marks = b"\xff\xda\0\2" * 2000
    application = b"\xff\xe1" + struct.pack(">H", len(marks) + 2) + marks
    for progressive in (False, True):
        data = encoded("JPEG", quality=100, progressive=progressive)
        assert open_image(data[:2] + application + data[2:]).size == (640, 480)
        assert open_image(data + marks).size == (640, 480)  # a motion photograph's video
    assert open_image(encoded("JPEG") + marks, reduce_to=100).size == (160, 120)


class Counted(io.BytesIO):
    """Counts the bytes that are read."""

    taken = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.taken += len(data)
        return data


def test_looking_for_scans_reads_each_byte_about_once() -> None:
    data = encoded("JPEG", quality=100, progressive=True)
    comments = data[:-2] + b"\xff\xfe\0\2" * 50_000 + data[-2:]
    whole = encoded("JPEG", quality=100)
    for content, most in ((data, 2 * len(data)), (comments, 20 * len(comments)), (whole, 4000)):
        with Image.open(stream := Counted(content)) as opened:
            stream.taken = 0
            module._check_scans(opened, "x")  # type: ignore[arg-type]
        assert stream.taken <= most


def test_damage_at_any_place_of_a_progressive_jpeg_is_never_a_loop() -> None:
    data = encoded("JPEG", quality=20, progressive=True)

    def opened() -> int:
        generator, errors = np.random.default_rng(0), 0
        for _ in range(100):
            changed = bytearray(data[: generator.integers(2, len(data))])
            for at in generator.integers(2, len(changed), 3) if len(changed) > 2 else ():
                changed[at] = generator.choice([0, 1, 2, 0xD8, 0xD9, 0xDA, 0xFF])
            try:
                open_image(bytes(changed))
            except InputError:
                errors += 1
        return errors

    assert in_time(opened) > 0


@pytest.mark.parametrize("format", ["JPEG2000", "AVIF", "WEBP"])
def test_servers_have_lower_limits_where_decoders_stop_other_threads(
    format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert module.SERVED_PIXELS[format] <= 25_000_000
    monkeypatch.setattr(module, "SERVED_PIXELS", dict.fromkeys(module.SERVED_PIXELS, 640 * 480 - 1))
    data = encoded(format)
    assert open_image(data).size == (640, 480)
    with pytest.raises(MediaTooLargeError, match=rf"has 307,200 pixels; a server opens {format} up to 307,199"):
        open_image(data, served=True)
    assert open_image(encoded("JPEG"), served=True).size == open_image(encoded("PNG"), served=True).size == (640, 480)
