"""Sampled objects stand apart, on the floor or on each other, and in the image."""

from __future__ import annotations

import numpy as np
import pytest

from synthetic.scenes.layout.sampling import LayoutConfig, SceneSampler, aim_camera
from synthetic.scenes.layout.scene import CORNERS, PlacedObject
from synthetic.scenes.objects.models import ObjectLibrary
from tests.synthetic.scenes.conftest import box_model


def test_objects_stand_apart_and_in_the_image(library: ObjectLibrary) -> None:
    sampler = SceneSampler(library, library.select(), LayoutConfig())
    stacked = 0
    for number in range(20):
        scene = sampler.sample(np.random.default_rng(number))
        boxes = [_box(library, each) for each in scene.objects]
        projected = scene.camera.project(np.concatenate(boxes), 1)
        assert projected[:, :2].min() > 0 and projected[:, :2].max() < 1
        for index, each in enumerate(scene.objects):
            below = None if each.on is None else scene.objects[each.on]
            top = 0 if below is None else library.info[below.model].top.height + below.position[2]
            assert each.position[2] == pytest.approx(top)  # nothing floats, nothing sinks
            stacked += below is not None
            for other, box in zip(scene.objects[:index], boxes[:index], strict=True):
                if each.on is None and other.on is None:
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
        assert all(each.on is None for each in scene.objects)
