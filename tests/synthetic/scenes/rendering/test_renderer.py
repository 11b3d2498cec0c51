"""Images agree with rays that are cast by formula: depth to a tenth of a millimetre, and the object of each pixel."""

from __future__ import annotations

import numpy as np
import pytest

from perception_encoder.errors import ConfigError
from synthetic.scenes.layout.camera import Camera
from synthetic.scenes.layout.scene import CORNERS, PlacedObject, yaw
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
    for number, (each, size) in enumerate(zip(objects, sizes, strict=True), start=1):
        start, along = each.rotation.T @ (eye - each.position), rays @ each.rotation
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
    return np.all([each == mask for each in shifted], axis=0)


def test_depth_and_masks_are_those_of_cast_rays(renderer: Renderer, library: ObjectLibrary) -> None:
    objects = (
        PlacedObject(model="test-crate", position=(-0.3, 0.1, 0.0), turn=yaw(0.5)),
        PlacedObject(model="test-table", position=(0.35, -0.1, 0.0), turn=yaw(-0.3)),
        PlacedObject(model="test-cushion", position=(0.35, -0.1, 0.2), turn=yaw(1.0), on=1),
    )
    scene = scene_of(*objects)
    image = draw(renderer, scene, SIDE)
    depth, mask = cast(scene.camera, objects, [library.info[each.model].size for each in objects])
    assert set(np.unique(mask)) == {0, 1, 2, 3}
    assert (image.mask == mask).mean() > 0.995  # a ray through an edge may go either way
    sure = inside(mask)
    assert (image.mask == mask)[sure].all()
    assert np.abs(image.depth - depth)[sure].max() < 1e-4
    assert image.rgb.shape == (SIDE, SIDE, 3)


def test_projected_corners_are_where_the_mask_ends(renderer: Renderer, library: ObjectLibrary) -> None:
    crate = PlacedObject(model="test-crate", position=(0.2, 0.1, 0.0), turn=yaw(0.4))
    scene = scene_of(crate)
    mask = draw(renderer, scene, 96).mask
    size = library.info["test-crate"].size
    projected = scene.camera.project((CORNERS * size) @ crate.rotation.T + crate.position, 96)
    rows, columns = np.nonzero(mask)
    assert abs(columns.min() - projected[:, 0].min()) <= 1 and abs(columns.max() + 1 - projected[:, 0].max()) <= 1
    assert abs(rows.min() - projected[:, 1].min()) <= 1 and abs(rows.max() + 1 - projected[:, 1].max()) <= 1


def test_an_object_shades_the_floor(renderer: Renderer) -> None:
    scene = scene_of(PlacedObject(model="test-crate", position=(0.0, 0.0, 0.0)))
    with_object, without = draw(renderer, scene, SIDE), draw(renderer, scene_of(), SIDE)
    floor = with_object.mask == 0
    darker = floor & (with_object.rgb.sum(axis=2) < 0.95 * without.rgb.sum(axis=2))
    rows, columns = np.nonzero(darker)
    assert 5 < len(rows) < 0.2 * SIDE * SIDE
    # the light is behind the camera on its right, so the shadow lies behind the crate, to its left
    along_x = scene.camera.rays_along(np.eye(3)[:1], SIDE)[0] * with_object.depth
    assert along_x[rows, columns].mean() + scene.camera.eye[0] < 0


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


@pytest.mark.parametrize("side", [8, 2048])
def test_sides_have_limits(renderer: Renderer, side: int) -> None:
    with pytest.raises(ConfigError, match="16 to 1024"):
        draw(renderer, scene_of(), side)
