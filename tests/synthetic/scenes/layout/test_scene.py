"""Rotations, boxes and planes have the axes that they should have."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from synthetic.scenes.layout.scene import box_corners, rotation_matrix, yaw
from tests.synthetic.scenes.conftest import FLOOR


def test_quaternions_become_scipys_matrices() -> None:
    turns = np.random.default_rng(0).normal(size=(4, 3, 4))
    turns /= np.linalg.norm(turns, axis=-1, keepdims=True)
    expected = Rotation.from_quat(turns.reshape(-1, 4)).as_matrix().reshape(4, 3, 3, 3)
    assert np.allclose(rotation_matrix(turns), expected)


def test_a_box_stands_on_its_position() -> None:
    corners = box_corners(np.array([1.0, 2.0, 3.0]), np.array(yaw(np.pi / 2)), np.array([0.2, 0.4, 0.6]))
    assert corners.min(axis=0) == pytest.approx((0.8, 1.9, 3.0))  # turned by 90°: the depth lies along x
    assert corners.max(axis=0) == pytest.approx((1.2, 2.1, 3.6))


def test_a_floor_is_visible_from_above() -> None:
    right, up, normal = FLOOR.axes
    assert (right.tolist(), up.tolist(), normal.tolist()) == ([1, 0, 0], [0, 1, 0], [0, 0, 1])
