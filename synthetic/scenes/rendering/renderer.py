"""Draw scenes with pybullet's software renderer: colours, depth, and the object that each pixel shows.

The renderer samples at whole viewport coordinates. An image is drawn at twice its side; then every second sample lies
in the middle of a pixel: depth and masks are those samples, colours a 1-2-1 filter around them. Shadows are a second
view, from the light, compared with the first; the renderer's own shadows do not fit scenes of all sizes.

An image depends on its scene alone, not on earlier ones: all objects are removed in reverse order.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from perception_encoder.errors import ConfigError
from synthetic.scenes.layout.camera import Camera
from synthetic.scenes.layout.scene import PlacedObject, Scene, triple
from synthetic.scenes.objects.models import ObjectLibrary
from synthetic.scenes.rendering.client import connect_pybullet, silence_output
from synthetic.scenes.rendering.room import paint_backdrop

SIDES = (16, 1024)  # pixels
SHADOWS = (64, 0.75)  # samples along the light's view: at least, and for each pixel along the image
LIGHT_AWAY = 8.0  # radii of the scene that the light's view is taken from
SHADOW_BIAS = (0.02, 0.12)  # radii: closer to the light than this is the surface itself; planes, and objects
MOST_LOADED = 2000  # models; then all are dropped


@dataclass(frozen=True)
class RenderedImage:
    """An image of a scene."""

    rgb: np.ndarray
    """(S, S, 3) uint8."""
    depth: np.ndarray
    """(S, S) float32: metres along the camera's axis in the middle of each pixel, 0 in the sky."""
    mask: np.ndarray
    """(S, S) uint8: 0 is background, else the object's index + 1."""


@dataclass(frozen=True)
class ObjectPass:
    """The objects alone, without shadows and room."""

    camera: Camera
    colours: np.ndarray
    """(2S, 2S, 3) uint8."""
    covered: np.ndarray
    """(2S, 2S) bool: whether there is an object."""
    depth: np.ndarray
    """(S, S) float32: metres along the camera's axis in the middle of each pixel."""
    mask: np.ndarray
    """(S, S) uint8: 0 is background, else the object's index + 1."""


class Renderer:
    """Draws scenes of a library's models, one after another; `with` closes it."""

    def __init__(self, library: ObjectLibrary) -> None:
        self._client = connect_pybullet()
        self.library = library
        self._textures = tempfile.TemporaryDirectory(prefix="pe-scenes-")
        self._shapes: dict[str, tuple[int, int]] = {}  # model → visual shape and texture

    def __enter__(self) -> Renderer:
        return self

    def __exit__(self, *_: object) -> None:
        with silence_output():
            self._client.disconnect()
        self._textures.cleanup()

    @contextmanager
    def stage(self, scene: Scene) -> Iterator[SceneStage]:
        """Set up a scene, which can then be drawn several times with its objects moved."""
        bodies = [self._add_object(item) for item in scene.objects]
        try:
            yield SceneStage(self._client, scene, bodies)
        finally:
            for body in reversed(bodies):
                self._client.removeBody(body)
            if len(self._shapes) > MOST_LOADED:
                self._client.resetSimulation()
                self._shapes.clear()

    def _add_object(self, item: PlacedObject) -> int:
        client = self._client
        if item.model not in self._shapes:
            mesh = self.library[item.model].mesh
            shape = client.createVisualShape(
                client.GEOM_MESH,
                vertices=mesh.vertices.tolist(),
                normals=mesh.normals.tolist(),
                uvs=mesh.uv.tolist(),
                indices=mesh.faces.ravel().tolist(),
            )
            path = Path(self._textures.name) / f"{len(self._shapes)}.bmp"  # pybullet remembers files by their names
            Image.fromarray(mesh.texture).save(path)
            self._shapes[item.model] = (shape, client.loadTexture(str(path)))
        shape, texture = self._shapes[item.model]
        body: int = client.createMultiBody(0, -1, shape, item.position, item.turn)
        both = client.VISUAL_SHAPE_DOUBLE_SIDED
        client.changeVisualShape(body, -1, textureUniqueId=texture, rgbaColor=(*item.tint, 1), flags=both)
        return body


class SceneStage:
    """A scene that `Renderer.stage` has set up."""

    def __init__(self, client: Any, scene: Scene, bodies: Sequence[int]) -> None:
        self._client, self.scene, self._bodies = client, scene, bodies

    def move(self, poses: np.ndarray) -> None:
        """Move the objects: (n, 7), position and turn of each."""
        for body, pose in zip(self._bodies, poses.tolist(), strict=True):
            self._client.resetBasePositionAndOrientation(body, pose[:3], pose[3:])

    def draw(self, camera: Camera, side: int) -> RenderedImage:
        """Draw an image, (side, side) pixels."""
        return self.shade(self.draw_objects(camera, side))

    def draw_objects(self, camera: Camera, side: int) -> ObjectPass:
        """Draw the objects alone, for an image of (side, side) pixels; ConfigError if `side` is out of bounds."""
        if not SIDES[0] <= side <= SIDES[1]:
            raise ConfigError(f"side is {side}; it must be from {SIDES[0]} to {SIDES[1]} px")
        colours, buffer, bodies = self._view(camera, 2 * side)
        numbers = np.zeros(max([-1, *self._bodies]) + 2, np.uint8)  # by body; -1 is none
        numbers[list(self._bodies)] = np.arange(1, len(self._bodies) + 1)
        depth = camera.depth_of(buffer[::2, 1::2]).astype(np.float32)
        return ObjectPass(camera, colours, bodies >= 0, depth, numbers[bodies[::2, 1::2]])

    def shade(self, objects: ObjectPass) -> RenderedImage:
        """Add the room and the shadows to the objects."""
        camera, on_object = objects.camera, objects.mask > 0
        backdrop = paint_backdrop(self.scene, camera, len(on_object))
        depth = np.where(on_object, objects.depth, backdrop.depth)
        bias = np.where(on_object, SHADOW_BIAS[1], SHADOW_BIAS[0]).astype(np.float32) * self.scene.radius
        lit = self._lit(camera, depth, bias)[..., None]
        coverage = _filter(objects.covered[..., None])
        lit_objects = _filter(objects.colours * objects.covered[..., None]) * (1 - self.scene.light.shade * (1 - lit))
        rgb = lit_objects + (1 - coverage) * (backdrop.ambient + backdrop.direct * lit)
        return RenderedImage(
            np.minimum(rgb, 255).round().astype(np.uint8),
            np.where(np.isfinite(depth), depth, np.float32(0)),
            objects.mask,
        )

    def _view(self, camera: Camera, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the colours (side, side, 3), the depth buffer and the numbers of bodies (side, side)."""
        light, client = self.scene.light, self._client
        _, _, colours, buffer, bodies = client.getCameraImage(
            side,
            side,
            client.computeViewMatrix(camera.eye, camera.target, (0, 0, 1)),
            client.computeProjectionMatrixFOV(camera.angle, 1, camera.near, camera.far),
            light.towards,
            light.colour,
            lightAmbientCoeff=light.ambient,
            lightDiffuseCoeff=light.diffuse,
            lightSpecularCoeff=0.0,
            shadow=0,
            renderer=client.ER_TINY_RENDERER,
        )
        shape = (side, side)
        return np.reshape(colours, (*shape, 4))[..., :3], np.reshape(buffer, shape), np.reshape(bodies, shape)

    def _lit(self, camera: Camera, depth: np.ndarray, bias: np.ndarray) -> np.ndarray:
        """Part of the light that reaches each pixel's surface, (S, S) in [0, 1]."""
        radius, side = self.scene.radius, max(SHADOWS[0], int(SHADOWS[1] * len(depth)))
        away = LIGHT_AWAY * radius
        angle = float(2 * np.degrees(np.arcsin(1.1 / LIGHT_AWAY)))
        eye = triple(np.array(self.scene.light.towards) * away)
        lamp = Camera(eye, (0, 0, 0), angle, away - 2 * radius, away + 2 * radius)
        _, buffer, bodies = self._view(lamp, side)
        nearest = np.where(bodies < 0, np.inf, lamp.depth_of(buffer)).astype(np.float32)
        nearest = np.pad(nearest, 2, constant_values=np.inf)
        solid = np.isfinite(depth)
        offset = (lamp.rotation @ np.subtract(camera.eye, eye)).astype(np.float32)
        distance = np.where(solid, depth, np.float32(0))
        points = camera.rays_along(lamp.rotation, len(depth)) * distance + offset[:, None, None]  # in the lamp's axes
        right, down = side / 2 + lamp.focal(side) * points[:2] / points[2]
        # a sample is at whole coordinates, from the left and from the bottom; two more are padding
        columns = np.clip(np.rint(right), -1, side).astype(np.intp) + 2
        rows = np.clip(np.rint(down) - 1, -1, side).astype(np.intp) + 2
        width, flat, limit = nearest.shape[1], nearest.ravel(), points[2] - bias
        samples = rows * width + columns
        steps = (row * width + column for row in (-1, 0, 1) for column in (-1, 0, 1))
        lit = np.add.reduce([flat.take(samples + step) > limit for step in steps], dtype=np.float32) / 9
        return np.where(solid, lit, np.float32(1))


def _filter(values: np.ndarray) -> np.ndarray:
    """Filter values at twice the side, (2S, 2S, C), to (S, S, C) float32: 1, 2, 1 both ways around each middle."""
    wide = np.concatenate([values[:1], values]).astype(np.uint16)  # the middles are the even rows
    tall = wide[:-1:2] + 2 * wide[1::2] + wide[2::2]
    full = np.concatenate([tall, tall[:, -1:]], axis=1)  # and the odd columns
    return ((full[:, :-1:2] + 2 * full[:, 1::2] + full[:, 2::2]) / np.float32(16)).astype(np.float32)
