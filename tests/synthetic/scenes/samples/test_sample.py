"""Settings have limits, depths and images are encoded exactly, and failed attempts end in an error."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from perception_encoder.errors import ConfigError, DataError
from synthetic.scenes.objects.models import ObjectLibrary
from synthetic.scenes.samples.images import ImageMaker
from synthetic.scenes.samples.sample import ScenesConfig, encode_image, millimetres


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"side": 33}, "even"),
        ({"side": 8}, "16 to 1024"),
        ({"count": 0}, "at least 1"),
        ({"seed": -1}, "at least 0"),
        ({"split": "all"}, "train, val, test"),
        ({"frames": 4}, "at least 16"),
    ],
)
def test_settings_have_limits(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ScenesConfig(**values)


def test_depths_beyond_the_format_are_zero() -> None:
    assert millimetres(np.array([0.0, 1.2345, 65.5, 70.0])).tolist() == [0, 1234, 65500, 0]


def test_images_are_encoded_without_loss() -> None:
    depth = np.random.default_rng(0).integers(0, 2**16, (5, 7)).astype(np.uint16)
    with Image.open(io.BytesIO(encode_image(depth, "PNG"))) as image:
        assert image.format == "PNG" and np.array_equal(np.asarray(image), depth)


def test_failed_attempts_end_in_an_error(library: ObjectLibrary, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = []
    with ImageMaker(library, ScenesConfig(split="test")) as maker:
        monkeypatch.setattr(maker, "attempt", lambda number, generator: attempts.append(number))
        with pytest.raises(DataError, match=r"test image 3: no valid scene in 60 tries"):
            maker.sample(3)
    assert attempts == [3] * 60
