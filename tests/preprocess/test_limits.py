"""Limits of memory and time while images are opened: nothing waits for itself, and few bytes are little work."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from perception_encoder.errors import MediaDecodeError
from perception_encoder.preprocess import image as module
from perception_encoder.preprocess.budget import ByteBudget
from perception_encoder.preprocess.image import open_image

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
    noise().save(stream := io.BytesIO(), format, **options)
    return stream.getvalue()


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
