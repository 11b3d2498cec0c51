"""Sampled objects stand apart and in the image; the written camera projects as ours does."""

from __future__ import annotations

import numpy as np
import pytest

from synthetic.scenes.layout.camera import Camera
from synthetic.scenes.layout.sampling import LayoutConfig, SceneSampler
from synthetic.scenes.layout.scene import CORNERS, PlacedObject
from synthetic.scenes.objects.models import ObjectLibrary


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


def test_the_json_of_a_camera_projects_as_it_does() -> None:
    camera = Camera((1.0, -2.0, 1.5), (0.1, 0.2, 0.3), 50)
    values = camera.to_json(64)
    point = np.array([0.3, 0.5, 0.2])
    projected = np.array(values["intrinsics"]) @ (np.array(values["rotation"]) @ point + values["translation"])
    assert np.allclose([*projected[:2] / projected[2], projected[2]], camera.project(point, 64))
