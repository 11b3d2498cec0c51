"""Textures of floors and walls differ, use the whole range, and repeat without a seam."""

from __future__ import annotations

import numpy as np
import pytest

from synthetic.scenes.layout.surfaces import FLOOR_TINTS, FLOORS, SIDE, WALLS, surface_texture

TEXTURES = [*(("floor", number) for number in range(len(FLOORS))), *(("wall", number) for number in range(len(WALLS)))]


@pytest.mark.parametrize(("surface", "number"), TEXTURES)
def test_a_texture_repeats_without_a_seam(surface: str, number: int) -> None:
    texture = surface_texture(surface, number)
    assert texture.shape == (SIDE, SIDE) and texture.dtype == np.uint8
    assert np.ptp(texture) > 8 and texture.mean() > 60
    for axis in (0, 1):
        steps = np.abs(np.diff(texture.astype(int), axis=axis, append=texture.take([0], axis=axis))).mean(axis=1 - axis)
        assert steps[-1] <= 1.5 * steps.max()  # from the last texel to the first of the next repeat


def test_no_two_textures_are_the_same() -> None:
    assert len({surface_texture(*each).tobytes() for each in TEXTURES}) == len(TEXTURES)


def test_tints_are_of_floors_that_exist() -> None:
    assert set(FLOOR_TINTS) <= {name for name, _ in FLOORS}
