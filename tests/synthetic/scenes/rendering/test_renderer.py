"""Images agree with rays that are cast by formula, and planned events happen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from synthetic.scenes.layout.camera import Camera
from synthetic.scenes.layout.scene import PlacedObject, rotation_matrix, yaw
from synthetic.scenes.objects.models import ObjectInfo, ObjectLibrary
from synthetic.scenes.rendering.motion import AWAY, PlannedEvent, object_centres, observe_events, simulate_events
from synthetic.scenes.rendering.renderer import Renderer
from tests.synthetic.scenes.conftest import draw, scene_of

SIDE = 48


def cast(
    camera: Camera, objects: tuple[PlacedObject, ...], sizes: list[tuple[float, ...]]
) -> tuple[np.ndarray, np.ndarray]:
    """Depth and mask (SIDE, SIDE) of boxes on the plane z = 0, without the renderer: rays against slabs."""
    focal = SIDE / 2 / np.tan(np.radians(camera.angle) / 2)
    forward = np.subtract(camera.target, camera.eye)
    forward = forward / np.linalg.norm(forward)
    right = np.cross(forward, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    middles = (np.arange(SIDE) + 0.5 - SIDE / 2) / focal
    rays = forward + middles[:, None] * right + middles[:, None, None] * down  # (SIDE, SIDE, 3)
    eye = np.array(camera.eye)
    with np.errstate(divide="ignore"):
        floor = np.where(rays[..., 2] < 0, -eye[2] / rays[..., 2], np.inf)
    on_it = (np.abs(eye[:2] + floor[..., None] * rays[..., :2]) <= 4).all(axis=-1)
    depth, mask = np.where(on_it, floor, np.inf), np.zeros((SIDE, SIDE), int)
    for number, (item, size) in enumerate(zip(objects, sizes, strict=True), start=1):
        start, along = item.rotation.T @ (eye - item.position), rays @ item.rotation
        low, high = np.array([-size[0] / 2, -size[1] / 2, 0]), np.array([size[0] / 2, size[1] / 2, size[2]])
        ends = np.sort([(low - start) / along, (high - start) / along], axis=0)
        near, far = ends[0].max(axis=-1), ends[1].min(axis=-1)
        met = (near > 0) & (near < far) & (near < depth)
        depth[met], mask[met] = near[met], number
    return np.where(np.isfinite(depth), depth, 0), mask


def inside(mask: np.ndarray) -> np.ndarray:
    """Pixels whose neighbours all show the same object."""
    padded = np.pad(mask, 1, mode="edge")
    shifted = [padded[1 + y : 1 + y + SIDE, 1 + x : 1 + x + SIDE] for y in (-1, 0, 1) for x in (-1, 0, 1)]
    return np.all([item == mask for item in shifted], axis=0)


def test_depth_and_masks_are_those_of_cast_rays(renderer: Renderer, library: ObjectLibrary) -> None:
    objects = (
        PlacedObject(model="test-crate", position=(-0.3, 0.1, 0.0), turn=yaw(0.5)),
        PlacedObject(model="test-table", position=(0.35, -0.1, 0.0), turn=yaw(-0.3)),
        PlacedObject(model="test-cushion", position=(0.35, -0.1, 0.2), turn=yaw(1.0), on=1),
    )
    scene = scene_of(*objects)
    image = draw(renderer, scene, SIDE)
    depth, mask = cast(scene.camera, objects, [library.info[item.model].size for item in objects])
    assert set(np.unique(mask)) == {0, 1, 2, 3}
    assert (image.mask == mask).mean() > 0.995  # a ray through an edge may go either way
    sure = inside(mask)
    assert (image.mask == mask)[sure].all()
    assert np.abs(image.depth - depth)[sure].max() < 1e-4
    assert image.rgb.shape == (SIDE, SIDE, 3)


def test_an_image_depends_on_its_scene_alone(renderer: Renderer, library: ObjectLibrary) -> None:
    one = scene_of(PlacedObject(model="pybullet-vase", position=(0.0, 0.0, 0.0), tint=(0.9, 0.2, 0.1)))
    other = scene_of(
        PlacedObject(model="pybullet-bowl", position=(-0.2, 0.0, 0.0)),
        PlacedObject(model="pybullet-vase", position=(0.3, 0.0, 0.0)),
    )
    before = draw(renderer, one, SIDE)
    draw(renderer, other, 32)
    with Renderer(library) as fresh:
        for again in (draw(renderer, one, SIDE), draw(fresh, one, SIDE)):
            assert again.rgb.tobytes() == before.rgb.tobytes()
            assert again.depth.tobytes() == before.depth.tobytes()
            assert again.mask.tobytes() == before.mask.tobytes()


BOX = ObjectInfo(key="b", label="box", class_name="box", source="t", licence="CC0-1.0", size=(0.2, 0.2, 0.2))
BALL = replace(BOX, key="a", label="ball", class_name="ball", shape="sphere")
POST = replace(BOX, size=(0.2, 0.12, 0.4))
FRAMES = 24


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
