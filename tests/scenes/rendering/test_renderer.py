"""Pictures agree with rays that are cast by formula: depth to a tenth of a millimetre, and what each pixel shows."""

from __future__ import annotations

import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement

from perception_encoder.errors import ConfigError, MissingExtraError
from perception_encoder.scenes.layout.camera import Camera
from perception_encoder.scenes.layout.scene import CORNERS, Thing, yaw
from perception_encoder.scenes.objects.bundled import bundled_models
from perception_encoder.scenes.objects.models import Library
from perception_encoder.scenes.rendering.renderer import Renderer, connect
from perception_encoder.scenes.rendering.room import paint
from tests.scenes.conftest import FLOOR, scene_of

SIDE = 48


@pytest.fixture(scope="module")
def renderer(library: Library):
    with Renderer(library) as found:
        yield found


def cast(camera: Camera, things: tuple[Thing, ...], sizes: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
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
    for number, (thing, size) in enumerate(zip(things, sizes, strict=True), start=1):
        start, along = thing.rotation.T @ (eye - thing.position), rays @ thing.rotation
        low, high = np.array([-size[0] / 2, -size[1] / 2, 0]), np.array([size[0] / 2, size[1] / 2, size[2]])
        ends = np.sort([(low - start) / along, (high - start) / along], axis=0)
        near, far = ends[0].max(axis=-1), ends[1].min(axis=-1)
        met = (near > 0) & (near < far) & (near < depth)
        depth[met], mask[met] = near[met], number
    return np.where(np.isfinite(depth), depth, 0), mask


def inside(mask: np.ndarray) -> np.ndarray:
    """Pixels whose neighbours all show the same thing."""
    padded = np.pad(mask, 1, mode="edge")
    shifted = [padded[1 + y : 1 + y + SIDE, 1 + x : 1 + x + SIDE] for y in (-1, 0, 1) for x in (-1, 0, 1)]
    return np.all([each == mask for each in shifted], axis=0)


def test_depth_and_masks_are_those_of_cast_rays(renderer: Renderer, library: Library) -> None:
    things = (
        Thing(model="test-crate", position=(-0.3, 0.1, 0.0), turn=yaw(0.5)),
        Thing(model="test-table", position=(0.35, -0.1, 0.0), turn=yaw(-0.3)),
        Thing(model="test-cushion", position=(0.35, -0.1, 0.2), turn=yaw(1.0), on=1),
    )
    scene = scene_of(*things)
    picture = renderer.draw(scene, SIDE)
    depth, mask = cast(scene.camera, things, [library[thing.model].size for thing in things])
    assert set(np.unique(mask)) == {0, 1, 2, 3}
    assert (picture.mask == mask).mean() > 0.995  # a ray through an edge may go either way
    sure = inside(mask)
    assert (picture.mask == mask)[sure].all()
    assert np.abs(picture.depth - depth)[sure].max() < 1e-4
    assert picture.rgb.shape == (SIDE, SIDE, 3)


def test_projected_corners_are_where_the_mask_ends(renderer: Renderer, library: Library) -> None:
    thing = Thing(model="test-crate", position=(0.2, 0.1, 0.0), turn=yaw(0.4))
    scene = scene_of(thing)
    mask = renderer.draw(scene, 96).mask
    size = library["test-crate"].size
    seen = scene.camera.project((CORNERS * size) @ thing.rotation.T + thing.position, 96)
    rows, columns = np.nonzero(mask)
    assert abs(columns.min() - seen[:, 0].min()) <= 1 and abs(columns.max() + 1 - seen[:, 0].max()) <= 1
    assert abs(rows.min() - seen[:, 1].min()) <= 1 and abs(rows.max() + 1 - seen[:, 1].max()) <= 1


def test_unprojecting_undoes_projecting() -> None:
    camera = Camera((1.0, -2.0, 1.5), (0.1, 0.2, 0.3), 50)
    depth = np.random.default_rng(0).uniform(0.5, 4, (8, 8))
    seen = camera.project(camera.unproject(depth), 8)
    middles = np.arange(8) + 0.5
    assert np.allclose(seen[..., 0], middles) and np.allclose(seen[..., 1], middles[:, None])
    assert np.allclose(seen[..., 2], depth)


def test_the_json_of_a_camera_projects_as_it_does() -> None:
    camera = Camera((1.0, -2.0, 1.5), (0.1, 0.2, 0.3), 50)
    values = camera.to_json(64)
    point = np.array([0.3, 0.5, 0.2])
    seen = np.array(values["intrinsics"]) @ (np.array(values["rotation"]) @ point + values["translation"])
    assert np.allclose([*seen[:2] / seen[2], seen[2]], camera.project(point, 64))


def test_a_thing_shades_the_floor_and_not_itself_alone(renderer: Renderer) -> None:
    scene = scene_of(Thing(model="test-crate", position=(0.0, 0.0, 0.0)))
    with_thing, without = renderer.draw(scene, SIDE), renderer.draw(scene_of(), SIDE)
    floor = with_thing.mask == 0
    darker = floor & (with_thing.rgb.sum(axis=2) < 0.95 * without.rgb.sum(axis=2))
    rows, columns = np.nonzero(darker)
    assert 5 < len(rows) < 0.2 * SIDE * SIDE
    # the light is behind the camera on its right, so the shadow lies behind the crate, to its left
    assert scene.camera.unproject(with_thing.depth.astype(float))[rows, columns].mean(axis=0)[0] < 0


def test_a_wall_hides_the_sky_and_has_its_depth() -> None:
    wall = replace(FLOOR, corner=(-4.0, 2.0, 0.0), up=(0.0, 0.0, 5.0), texture=0, kind="wall")
    camera = Camera((0.0, -2.0, 1.0), (0.0, 2.0, 1.0), 60, far=20)
    backdrop = paint(scene_of(planes=(FLOOR, wall)), camera, 16)
    assert np.allclose(backdrop.depth[:8], 4.0)  # the wall stands across the view, 4 m away
    assert np.isfinite(backdrop.depth).all()
    assert np.isinf(paint(scene_of(), camera, 16).depth[:8]).all()


def test_a_picture_depends_on_its_scene_alone(renderer: Renderer, library: Library) -> None:
    one = scene_of(Thing(model="pybullet-vase", position=(0.0, 0.0, 0.0), tint=(0.9, 0.2, 0.1)))
    other = scene_of(
        Thing(model="pybullet-bowl", position=(-0.2, 0.0, 0.0)), Thing(model="pybullet-vase", position=(0.3, 0.0, 0.0))
    )
    before = renderer.draw(one, SIDE)
    renderer.draw(other, 32)
    with Renderer(library) as fresh:
        for again in (renderer.draw(one, SIDE), fresh.draw(one, SIDE)):
            assert again.rgb.tobytes() == before.rgb.tobytes()
            assert again.depth.tobytes() == before.depth.tobytes()
            assert again.mask.tobytes() == before.mask.tobytes()


@pytest.mark.parametrize("side", [8, 2048])
def test_sides_have_limits(renderer: Renderer, side: int) -> None:
    with pytest.raises(ConfigError, match="16 to 1024"):
        renderer.draw(scene_of(), side)


def test_without_pybullet_the_extra_is_named(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pybullet", None)
    with pytest.raises(MissingExtraError, match=r"\[scenes\]"):
        Renderer(library)


def test_a_python_without_a_wheel_of_pybullet_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pybullet", None)
    monkeypatch.setitem(sys.modules, "pybullet_data", None)
    monkeypatch.setattr(sys, "version_info", (3, 13, 1))
    for use in (connect, bundled_models):
        with pytest.raises(ConfigError, match=r"has no wheel for Python 3\.13; use Python 3\.11"):
            use()


def test_the_extra_leaves_out_pybullet_where_it_has_no_wheel(root: Path) -> None:
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (pybullet,) = [Requirement(line) for line in extras["scenes"] if line.startswith("pybullet")]
    present = {version: pybullet.marker.evaluate({"python_version": version}) for version in ("3.11", "3.12", "3.13")}
    assert present == {"3.11": True, "3.12": False, "3.13": False}
