"""Looks: boxes move with the page, and each look does to the pixels what it is named after."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from synthetic.documents.document import document
from synthetic.documents.looks import LOOKS, apply_look, homography, move_boxes

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


def test_a_quarter_turn_swaps_width_and_height() -> None:
    turn = homography([(0, 0), (100, 0), (100, 100), (0, 100)], [(100, 0), (100, 100), (0, 100), (0, 0)])
    assert move_boxes([(10, 20, 40, 30)], turn, 100, 100) == [(69, 9, 81, 41)]  # a pixel wider on each side
    assert move_boxes([(0, 0, 100, 100)], turn, 100, 100) == [(0, 0, 100, 100)]  # and inside the image


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


@pytest.mark.parametrize("name", ["clean", "noise", "print"])
def test_boxes_stay_without_a_turn(name: str) -> None:
    assert look(name)[1] == BOXES


def test_what_each_look_does() -> None:
    clean = np.asarray(page(), dtype=int)
    assert (look("clean")[0] == clean).all()
    noise, grey, photo = (look(name)[0] for name in ("noise", "print", "photo"))
    assert noise[100:150, 100:140].std() > 3 and clean[100:150, 100:140].std() == 0
    tones = grey[55:65, 45:85] @ np.array([1, 0, 0])
    assert tones.std() > 2  # uneven ink
    chroma = grey - grey.mean((0, 1))
    assert np.abs(chroma[..., 0] - chroma[..., 1]).max() < 25  # grey on one tint
    corners = [photo[0, 0], photo[0, -1], photo[-1, 0], photo[-1, -1]]
    assert min(np.abs(corner - photo[120, 100]).max() for corner in corners) > 15  # the table around the page


@pytest.mark.parametrize("name", [item for item in LOOKS if item != "clean"])
def test_a_look_depends_on_its_generator_alone(name: str) -> None:
    assert (look(name, 1)[0] == look(name, 1)[0]).all() and (look(name, 1)[0] != look(name, 2)[0]).any()


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
