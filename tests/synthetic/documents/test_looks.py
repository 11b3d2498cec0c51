"""Looks: boxes move with the page, and a look depends on its generator alone."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from synthetic.documents.looks import LOOKS, apply_look

BOXES = [(40, 50, 90, 70), (150, 160, 180, 200), (20, 200, 60, 215)]


def page() -> Image.Image:
    image = Image.new("RGB", (256, 240), (255, 255, 255))
    for number, box in enumerate(BOXES):
        image.paste((0, 60 * number, 0), box)
    return image


def look(name: str, seed: int = 0) -> tuple[np.ndarray, list[tuple[int, int, int, int]]]:
    image, boxes = apply_look(page(), BOXES, name, np.random.default_rng(seed))
    assert image.size == (256, 240) and image.mode == "RGB"
    return np.asarray(image, dtype=int), boxes


@pytest.mark.parametrize("name", ["rotated", "photo"])
def test_boxes_follow_the_page(name: str) -> None:
    for seed in range(5):
        pixels, boxes = look(name, seed)
        assert all(new != old for new, old in zip(boxes, BOXES, strict=True))
        for left, top, right, bottom in boxes:
            inside = pixels[top:bottom, left:right].max(-1)
            border = np.concatenate([inside[0], inside[-1], inside[:, 0], inside[:, -1]])
            assert inside.min() < border.mean() / 2  # the square is inside, and paper around it
            middle = inside[inside.shape[0] // 2, inside.shape[1] // 2]
            assert middle < border.mean()


@pytest.mark.parametrize("name", [item for item in LOOKS if item != "clean"])
def test_a_look_depends_on_its_generator_alone(name: str) -> None:
    assert (look(name, 1)[0] == look(name, 1)[0]).all() and (look(name, 1)[0] != look(name, 2)[0]).any()
