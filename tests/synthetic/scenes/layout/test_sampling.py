"""Sampled objects stand apart, on the floor or on each other, and in the image."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from synthetic.scenes.layout.camera import Camera
from synthetic.scenes.layout.sampling import LayoutConfig, SceneSampler, aim_camera
from synthetic.scenes.layout.scene import CORNERS, PlacedObject, box_corners, rotation_matrix, yaw
from synthetic.scenes.layout.surfaces import FLOOR_TINTS, FLOORS, SIDE, WALLS, surface_texture
from synthetic.scenes.objects.models import ObjectLibrary
from tests.synthetic.scenes.conftest import FLOOR, box_model


def test_objects_stand_apart_and_in_the_image(library: ObjectLibrary) -> None:
    sampler = SceneSampler(library, library.select(), LayoutConfig())
    stacked = 0
    for number in range(20):
        scene = sampler.sample(np.random.default_rng(number))
        boxes = [_box(library, item) for item in scene.objects]
        projected = scene.camera.project(np.concatenate(boxes), 1)
        assert projected[:, :2].min() > 0 and projected[:, :2].max() < 1
        for index, item in enumerate(scene.objects):
            below = None if item.on is None else scene.objects[item.on]
            top = 0 if below is None else library.info[below.model].top.height + below.position[2]
            assert item.position[2] == pytest.approx(top)  # nothing floats, nothing sinks
            stacked += below is not None
            for other, box in zip(scene.objects[:index], boxes[:index], strict=True):
                if item.on is None and other.on is None:
                    assert _distance(boxes[index], box) > 0
    assert stacked


def _box(library: ObjectLibrary, each: PlacedObject) -> np.ndarray:
    return (CORNERS * library.info[each.model].size) @ each.rotation.T + each.position


def _distance(first: np.ndarray, second: np.ndarray) -> float:
    """The widest gap between two boxes' floors along any of 90 directions; negative where they overlap."""
    angles = np.arange(90) * np.pi / 90
    ways = np.stack([np.cos(angles), np.sin(angles)])
    one, other = first[:, :2] @ ways, second[:, :2] @ ways
    return float(np.maximum(one.min(0) - other.max(0), other.min(0) - one.max(0)).max())


def test_an_object_that_fits_no_other_stands_alone() -> None:
    models = [box_model("crate", (0.2, 0.3, 0.25)), box_model("tower", (2.0, 2.0, 5.0))]
    few = ObjectLibrary({model.info.key: model for model in models})
    scene = SceneSampler(few, few.select(), LayoutConfig(again=0.0)).sample(np.random.default_rng(0))
    assert len(scene.objects) == 1


def test_a_camera_is_as_near_as_the_margin_allows() -> None:
    corners = (CORNERS * (0.4, 0.6, 0.3))[None]
    away = np.array([0.0, -0.8, 0.6])
    projected = aim_camera(corners, away, 40.0).project(corners, 1)[..., :2]
    assert np.abs(projected - 0.5).max() == pytest.approx(0.45)


def test_the_first_object_is_the_given_one(library: ObjectLibrary) -> None:
    sampler = SceneSampler(library, library.select(), LayoutConfig())
    for seed in range(8):
        scene = sampler.sample(np.random.default_rng(seed), "test-table")
        assert scene.objects[0].model == "test-table"
        assert all(item.on is None for item in scene.objects)


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
    assert len({surface_texture(*item).tobytes() for item in TEXTURES}) == len(TEXTURES)


def test_tints_are_of_floors_that_exist() -> None:
    assert set(FLOOR_TINTS) <= {name for name, _ in FLOORS}


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
