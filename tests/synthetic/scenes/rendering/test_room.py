"""The room behind the objects has exact depth and its textures do not shimmer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from synthetic.scenes.layout.camera import Camera
from synthetic.scenes.rendering.room import paint_backdrop
from tests.synthetic.scenes.conftest import FLOOR, scene_of


def test_a_wall_hides_the_sky_and_has_its_depth() -> None:
    wall = replace(FLOOR, corner=(-4.0, 2.0, 0.0), up=(0.0, 0.0, 5.0), texture=0, surface="wall")
    camera = Camera((0.0, -2.0, 1.0), (0.0, 2.0, 1.0), 60, far=20)
    backdrop = paint_backdrop(scene_of(planes=(FLOOR, wall)), camera, 16)
    assert np.allclose(backdrop.depth[:8], 4.0)  # the wall stands across the view, 4 m away
    assert np.isfinite(backdrop.depth).all()
    assert np.isinf(paint_backdrop(scene_of(), camera, 16).depth[:8]).all()
