"""The room behind the objects has exact depth and its textures do not shimmer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from synthetic.scenes.layout.camera import Camera
from synthetic.scenes.layout.surfaces import SIDE, surface_texture
from synthetic.scenes.rendering.room import paint_backdrop, texture_pyramid
from tests.synthetic.scenes.conftest import FLOOR, scene_of


def test_a_wall_hides_the_sky_and_has_its_depth() -> None:
    wall = replace(FLOOR, corner=(-4.0, 2.0, 0.0), up=(0.0, 0.0, 5.0), texture=0, surface="wall")
    camera = Camera((0.0, -2.0, 1.0), (0.0, 2.0, 1.0), 60, far=20)
    backdrop = paint_backdrop(scene_of(planes=(FLOOR, wall)), camera, 16)
    assert np.allclose(backdrop.depth[:8], 4.0)  # the wall stands across the view, 4 m away
    assert np.isfinite(backdrop.depth).all()
    assert np.isinf(paint_backdrop(scene_of(), camera, 16).depth[:8]).all()


def test_a_pyramid_is_of_means() -> None:
    levels = texture_pyramid("floor", 2)
    assert np.array_equal(levels[0], surface_texture("floor", 2).astype(np.float32) / 255)
    blocks = levels[0].reshape(SIDE // 8, 8, SIDE // 8, 8).mean(axis=(1, 3))
    assert np.abs(levels[3][::8, ::8] - blocks).max() <= 1 / 255  # rounded twice
    assert np.ptp(levels[-1]) == 0


def test_light_is_added_to_the_ambient_colour() -> None:
    scene = scene_of()
    backdrop = paint_backdrop(scene, scene.camera, 32)
    floor = np.isfinite(backdrop.depth)
    assert floor.any() and (backdrop.direct[~floor] == 0).all()
    expected = scene.light.diffuse * scene.light.towards[2] / scene.light.ambient
    assert np.allclose(backdrop.direct[floor] / backdrop.ambient[floor], expected, rtol=1e-4)
