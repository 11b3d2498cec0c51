"""Each change does what its name says, keeps the size of an image, and repeats itself."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from experiments.robustness import CHANGES, Changed, grey, turned


def image() -> Image.Image:
    pixels = np.zeros((60, 80, 3), dtype=np.uint8)
    pixels[:, :40] = (200, 40, 40)
    pixels[20:40, 50:70] = (40, 40, 200)
    return Image.fromarray(pixels)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def array(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_keeps_size_and_mode_and_repeats_itself(name: str) -> None:
    before = image()
    once, again = (CHANGES[name](before, rng()) for _ in range(2))
    assert (once.size, once.mode) == (before.size, "RGB")
    assert (array(once) == array(again)).all()
    assert (array(once) != array(before)).any()
    assert (array(before) == array(image())).all()


def test_an_image_is_turned_by_20_to_60_degrees_to_either_side() -> None:
    line = Image.new("RGB", (101, 101))
    line.paste((255, 255, 255), (50, 0, 52, 101))
    degrees = []
    generator = rng()
    for _ in range(40):
        rows, columns = np.nonzero(array(turned(line, generator))[..., 0] > 200)
        slope = np.polyfit(rows, columns, 1)[0]
        degrees.append(np.degrees(np.arctan(slope)))
    assert 17 < np.abs(degrees).min() < 30
    assert 50 < np.abs(degrees).max() < 63
    assert min(degrees) < 0 < max(degrees)


def test_an_encoder_sees_changed_images() -> None:
    class Mean:
        name = "mean"

        def encode_images(self, images: list[Image.Image], normalize: bool = True) -> np.ndarray:
            return np.stack([array(image).mean(axis=(0, 1)) for image in images])

    means = Changed(Mean(), grey).encode_images([image(), image().convert("L")])
    assert np.ptp(means, axis=1).tolist() == [0, 0]
