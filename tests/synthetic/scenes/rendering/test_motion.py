"""Objects move as planned: read off poses that are made by hand, and off simulated ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from synthetic.scenes.layout.camera import Camera
from synthetic.scenes.layout.scene import PlacedObject, rotation_matrix
from synthetic.scenes.objects.models import ObjectInfo
from synthetic.scenes.rendering.motion import (
    AWAY,
    PlannedEvent,
    object_centres,
    observe_events,
    orbit_camera,
    plan_events,
    simulate_events,
)
from tests.synthetic.scenes.conftest import scene_of

BOX = ObjectInfo(key="b", label="box", class_name="box", source="t", licence="CC0-1.0", size=(0.2, 0.2, 0.2))
BALL = replace(BOX, key="a", label="ball", class_name="ball", shape="sphere")
POST = replace(BOX, size=(0.2, 0.12, 0.4))
FRAMES = 24


def still(count: int, places: list[tuple[float, float, float]]) -> np.ndarray:
    poses = np.zeros((count, len(places), 7))
    poses[..., :3], poses[..., 6] = places, 1
    return poses


def test_planned_events_happen() -> None:
    objects = (
        PlacedObject(model="b", position=(-0.5, 0.0, 0.0)),
        PlacedObject(model="a", position=(0.0, 0.5, 0.0)),
        PlacedObject(model="b", position=(0.5, 0.0, 0.0)),
        PlacedObject(model="b", position=(0.0, -0.5, 0.0)),
        PlacedObject(model="c", position=(-0.5, -0.5, 0.0)),
    )
    plans = [
        PlannedEvent(action="is pushed", index=0, start=0.2, way=(-1.0, 0.0), reach=0.3),
        PlannedEvent(action="rolls", index=1, start=0.5, way=(0.0, 1.0), reach=0.6),
        PlannedEvent(action="falls", index=2, start=0.9, reach=1.2),
        PlannedEvent(action="tips over", index=4, start=1.2, way=(0.0, -1.0)),
    ]
    infos = [BOX, BALL, BOX, BOX, POST]
    poses = simulate_events(scene_of(*objects), infos, plans, FRAMES)
    events = observe_events(poses, plans, infos, 1.0)
    assert events is not None
    assert [(event.action, event.object, event.start) for event in events] == [
        ("is pushed", 1, 0.2),
        ("rolls", 2, 0.5),
        ("falls", 3, 0.9),
        ("tips over", 5, 1.2),
    ]
    assert all(event.start < event.end < 3 for event in events)
    centres = object_centres(poses, infos)
    assert centres[-1, 0] == pytest.approx((-0.8, 0.0, 0.1), abs=0.05)  # friction stops it after its reach
    assert centres[-1, 1] == pytest.approx((0.0, 1.1, 0.1), abs=0.1)
    assert poses[0, 2, 2] == AWAY and centres[-1, 2] == pytest.approx((0.5, 0.0, 0.1), abs=0.02)
    assert np.abs(poses[:, 3] - poses[0, 3]).max() < 1e-3
    turned = 2 * np.arccos(np.abs(poses[1:, 1, 3:] * poses[:-1, 1, 3:]).sum(axis=1).clip(0, 1)).sum()
    assert turned == pytest.approx(np.linalg.norm(np.diff(centres[:, 1], axis=0), axis=1).sum() / 0.1, rel=0.2)
    again = simulate_events(scene_of(*objects), infos, plans, FRAMES)
    assert again.tobytes() == poses.tobytes()
    assert poses[-1, 4, 2] == pytest.approx(0.06, abs=0.02)  # it lies on its side: its bottom stands upright
    assert rotation_matrix(poses[-1, 4, 3:])[:, 2] == pytest.approx(
        (0, -1, 0), abs=0.1
    )  # with its top to where it fell


def test_a_failed_event_leaves_no_events() -> None:
    push = PlannedEvent(action="is pushed", index=0, start=0.0, reach=0.3)
    poses = still(10, [(0.0, 0.0, 0.0), (0.5, 0.0, 0.0)])
    assert observe_events(poses, [push], [BOX, BOX], 1.0) is None  # it stood still
    poses[5:, 0, 0] = 0.2
    assert observe_events(poses, [push], [BOX, BOX], 1.0) is not None
    fallen = poses.copy()
    fallen[5:, 0, 3:] = (np.sqrt(0.5), 0, 0, np.sqrt(0.5))
    assert observe_events(fallen, [push], [BOX, BOX], 1.0) is None  # it fell over
    tip = PlannedEvent(action="tips over", index=0, start=0.0)
    assert observe_events(poses, [tip], [BOX, BOX], 1.0) is None  # it slid upright
    fallen[5:, 0, 2] = 0.1
    assert observe_events(fallen, [tip], [BOX, BOX], 1.0) is not None
    poses[5:, 1, 1] = 0.2
    assert observe_events(poses, [push], [BOX, BOX], 1.0) is None  # something else moved


def test_only_slender_objects_tip_over() -> None:
    scene = scene_of(*(PlacedObject(model="b", position=(place, 0.3, 0.0)) for place in (-0.5, 0.0, 0.5)))
    generators = map(np.random.default_rng, range(60))
    plans = [each for generator in generators for each in plan_events(scene, [BOX, BALL, POST], 3, generator)]
    assert {each.action for each in plans if each.index == 0} == {"falls", "is pushed"}
    assert {each.action for each in plans if each.index == 1} == {"rolls"}
    assert {each.action for each in plans if each.index == 2} == {"falls", "is pushed", "tips over"}
    assert {each.way for each in plans if each.action == "tips over"} <= {(0.0, 1.0), (0.0, -1.0)}  # over the near edge


def test_a_camera_orbits_at_one_distance() -> None:
    camera = Camera((1.0, -2.0, 1.0), (0.2, 0.0, 0.3), 40)
    cameras = orbit_camera(camera, 0.8, 5)
    assert cameras[2].eye == pytest.approx(camera.eye)
    distances = [np.linalg.norm(np.subtract(each.eye, each.target)) for each in cameras]
    assert np.allclose(distances, distances[0])
    flat = [np.subtract(each.eye, each.target)[:2] for each in (cameras[0], cameras[-1])]
    angle = np.arccos(flat[0] @ flat[1] / np.linalg.norm(flat[0]) ** 2)
    assert angle == pytest.approx(0.8)
