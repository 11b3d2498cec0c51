"""Looks: boxes move with the page, and each look does to the pixels what it is named after."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from synthetic.documents.document import document
from synthetic.documents.looks import apply_look, homography

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


def test_a_homography_maps_its_points() -> None:
    source, target = [(0, 0), (10, 0), (10, 8), (0, 8)], [(1, 2), (9, 0), (11, 9), (-1, 7)]
    matrix = homography(source, target)
    points = np.array([(x, y, 1) for x, y in source]) @ matrix.T
    assert np.allclose(points[:, :2] / points[:, 2:], target)


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


def test_rotation_turns_both_ways_and_loses_no_word() -> None:
    slopes = set()
    for seed in range(12):
        drawn = document(seed, "receipt", look="rotated", size=256)
        clean = document(seed, "receipt", look="clean", size=256)
        (first, last), (was_first, was_last) = (
            [(item.words[number].box[1] + item.words[number].box[3]) / 2 for number in (-2, -1)]
            for item in (drawn, clean)
        )
        if was_first == was_last or abs(was_first - was_last) < 2:
            slopes.add(last - first > 0)
        assert all(box[0] >= 0 and box[2] <= 256 and box[1] >= 0 and box[3] <= 256 for _, box in drawn.words)
    assert slopes == {True, False}
