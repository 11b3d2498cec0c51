"""A camera's projection, its inverse, and its JSON agree."""

from __future__ import annotations

import numpy as np
import pytest

from synthetic.scenes.layout.camera import Camera


def test_rays_meet_the_middles_of_their_pixels() -> None:
    camera = Camera((1.0, -2.0, 1.5), (0.1, 0.2, 0.3), 50)
    depth = np.random.default_rng(0).uniform(0.5, 4, (8, 8))
    points = np.moveaxis(camera.rays_along(np.eye(3), 8) * depth, 0, -1) + camera.eye
    projected = camera.project(points, 8)
    middles = np.arange(8) + 0.5
    assert np.allclose(projected[..., 0], middles, atol=1e-4)
    assert np.allclose(projected[..., 1], middles[:, None], atol=1e-4)
    assert np.allclose(projected[..., 2], depth)


def test_the_json_of_a_camera_projects_as_it_does() -> None:
    camera = Camera((1.0, -2.0, 1.5), (0.1, 0.2, 0.3), 50)
    values = camera.to_json(64)
    point = np.array([0.3, 0.5, 0.2])
    projected = np.array(values["intrinsics"]) @ (np.array(values["rotation"]) @ point + values["translation"])
    assert np.allclose([*projected[:2] / projected[2], projected[2]], camera.project(point, 64))


def test_the_depth_buffer_becomes_metres() -> None:
    camera = Camera((0.0, -1.0, 0.0), (0.0, 0.0, 0.0), 50, near=0.5, far=8.0)
    metres = np.array([0.5, 1.0, 8.0])
    buffer = (8 + 0.5 - 2 * 8 * 0.5 / metres) / (8 - 0.5) / 2 + 0.5  # OpenGL's perspective division
    assert camera.depth_of(buffer) == pytest.approx(metres)
