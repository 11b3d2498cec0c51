"""Images agree with rays that are cast by formula, and planned events happen."""

from __future__ import annotations

import numpy as np

from synthetic.scenes.layout.camera import Camera
from synthetic.scenes.layout.scene import PlacedObject, yaw
from synthetic.scenes.objects.models import ObjectLibrary
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
