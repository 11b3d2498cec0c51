"""Draw scenes with pybullet's software renderer: colours, depth, and which thing each pixel shows.

The renderer samples at whole viewport coordinates. A picture is drawn at twice its side; then every second sample lies
in the middle of a pixel: depth and masks are those samples, colours a 1-2-1 filter around them. Shadows are a second
view, from the light, compared with the first; the renderer's own do not fit scenes of any size.

What is drawn depends on the scene alone, not on what was drawn before: everything is removed in the reverse order.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from perception_encoder.errors import ConfigError
from perception_encoder.scenes.layout.camera import Camera
from perception_encoder.scenes.layout.scene import Scene, Thing, triple
from perception_encoder.scenes.objects.bundled import missing_pybullet
from perception_encoder.scenes.objects.models import Library
from perception_encoder.scenes.rendering.room import Backdrop, paint

SIDES = (16, 1024)  # pixels
SHADOWS = (64, 0.75)  # samples along the light's view: at least, and for each along the picture
LIGHT_AWAY = 8.0  # radii of the scene that the light's view is taken from
SHADOW_BIAS = (0.02, 0.12)  # radii: closer to the light than this is the surface itself; planes, and things
KEPT = 2000  # models that stay loaded; then all are dropped


@dataclass(frozen=True)
class Picture:
    """What a camera sees."""

    rgb: np.ndarray
    """(S, S, 3) uint8."""
    depth: np.ndarray
    """(S, S) float32: metres along the camera's axis in the middle of each pixel, 0 where there is nothing."""
    mask: np.ndarray
    """(S, S) uint8: 0 is background, n the thing of number n − 1."""


@dataclass(frozen=True)
class View:
    """The things alone, as a camera sees them."""

    camera: Camera
    colours: np.ndarray
    """(2S, 2S, 3) uint8."""
    shown: np.ndarray
    """(2S, 2S) bool: where there is a thing."""
    depth: np.ndarray
    """(S, S) float32: metres along the camera's axis in the middle of each pixel."""
    mask: np.ndarray
    """(S, S) uint8: 0 is background, n the thing of number n − 1."""


class Renderer:
    """Draws scenes of a library's models, one after another; `with` closes it."""

    def __init__(self, library: Library) -> None:
        self._client = connect()
        self.library = library
        self._folder = tempfile.TemporaryDirectory(prefix="pe-scenes-")
        self._shapes: dict[str, tuple[int, int]] = {}  # model → visual shape and texture

    def __enter__(self) -> Renderer:
        return self

    def __exit__(self, *_: object) -> None:
        with silence():
            self._client.disconnect()
        self._folder.cleanup()

    def draw(self, scene: Scene, side: int) -> Picture:
        """Draw a scene, (side, side) pixels."""
        with self.stage(scene) as stage:
            return stage.draw(scene.camera, side)

    @contextmanager
    def stage(self, scene: Scene) -> Iterator[Stage]:
        """Set a scene up, to be drawn several times with its things moved."""
        bodies = [self._add_thing(thing) for thing in scene.things]
        try:
            yield Stage(self._client, scene, bodies)
        finally:
            for body in reversed(bodies):
                self._client.removeBody(body)
            if len(self._shapes) > KEPT:
                self._client.resetSimulation()
                self._shapes.clear()

    def _add_thing(self, thing: Thing) -> int:
        client = self._client
        if thing.model not in self._shapes:
            mesh = self.library[thing.model].mesh
            shape = client.createVisualShape(
                client.GEOM_MESH,
                vertices=mesh.vertices.tolist(),
                normals=mesh.normals.tolist(),
                uvs=mesh.uv.tolist(),
                indices=mesh.faces.ravel().tolist(),
            )
            path = Path(self._folder.name) / f"{len(self._shapes)}.bmp"  # pybullet remembers files by their names
            Image.fromarray(mesh.texture).save(path)
            self._shapes[thing.model] = (shape, client.loadTexture(str(path)))
        shape, picture = self._shapes[thing.model]
        body: int = client.createMultiBody(0, -1, shape, thing.position, thing.turn)
        both = client.VISUAL_SHAPE_DOUBLE_SIDED
        client.changeVisualShape(body, -1, textureUniqueId=picture, rgbaColor=(*thing.tint, 1), flags=both)
        return body


class Stage:
    """A scene that is set up; from `Renderer.stage`."""

    def __init__(self, client: Any, scene: Scene, bodies: Sequence[int]) -> None:
        self._client, self.scene, self._bodies = client, scene, bodies
        self._painted: dict[tuple[Camera, int], Backdrop] = {}

    def move(self, poses: np.ndarray) -> None:
        """Put the things elsewhere: (n, 7), position and turn of each."""
        for body, pose in zip(self._bodies, poses.tolist(), strict=True):
            self._client.resetBasePositionAndOrientation(body, pose[:3], pose[3:])

    def draw(self, camera: Camera, side: int) -> Picture:
        """Draw what a camera sees, (side, side) pixels."""
        return self.light(self.look(camera, side))

    def look(self, camera: Camera, side: int) -> View:
        """Draw the things alone, (side, side) pixels, without shadows and room."""
        if not SIDES[0] <= side <= SIDES[1]:
            raise ConfigError(f"a picture of {side} px; allowed are {SIDES[0]} to {SIDES[1]} px")
        colours, buffer, bodies = self._view(camera, 2 * side)
        numbers = np.zeros(max([-1, *self._bodies]) + 2, np.uint8)  # by body; -1 is none
        numbers[list(self._bodies)] = np.arange(1, len(self._bodies) + 1)
        depth = camera.depth_of(buffer[::2, 1::2]).astype(np.float32)
        return View(camera, colours, bodies >= 0, depth, numbers[bodies[::2, 1::2]])

    def light(self, view: View) -> Picture:
        """Add the room and the shadows to the things."""
        here = view.mask > 0
        place = (view.camera, len(here))
        if place not in self._painted:
            self._painted[place] = paint(self.scene, *place)
        backdrop = self._painted[place]
        depth = np.where(here, view.depth, backdrop.depth)
        bias = np.where(here, SHADOW_BIAS[1], SHADOW_BIAS[0]).astype(np.float32) * self.scene.radius
        lit = self._lit(view.camera, depth, bias)[..., None]
        shade = 1 - self.scene.light.shade * (1 - lit)
        things = _filter(view.colours * view.shown[..., None]) * shade
        rgb = things + (1 - _filter(view.shown[..., None])) * (backdrop.ambient + backdrop.direct * lit)
        return Picture(
            np.minimum(rgb, 255).round().astype(np.uint8),
            np.where(np.isfinite(depth), depth, np.float32(0)),
            view.mask,
        )

    def _view(self, camera: Camera, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Colours (side, side, 3), depth buffer and numbers of bodies (side, side)."""
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
        """How much of the light reaches each pixel's surface, (S, S) in [0, 1]."""
        radius, side = self.scene.radius, max(SHADOWS[0], int(SHADOWS[1] * len(depth)))
        away = LIGHT_AWAY * radius
        angle = float(2 * np.degrees(np.arcsin(1.1 / LIGHT_AWAY)))
        eye = triple(np.array(self.scene.light.towards) * away)
        lamp = Camera(eye, (0, 0, 0), angle, away - 2 * radius, away + 2 * radius)
        _, buffer, bodies = self._view(lamp, side)
        nearest = np.where(bodies < 0, np.inf, lamp.depth_of(buffer)).astype(np.float32)
        nearest = np.pad(nearest, 2, constant_values=np.inf)
        there = np.isfinite(depth)
        offset = (lamp.rotation @ np.subtract(camera.eye, eye)).astype(np.float32)
        reached = np.where(there, depth, np.float32(0))
        seen = camera.rays_along(lamp.rotation, len(depth)) * reached + offset[:, None, None]
        right, down = side / 2 + lamp.focal(side) * seen[:2] / seen[2]
        # a sample is at whole coordinates, from the left and from the bottom; two more are padding
        columns = np.clip(np.rint(right), -1, side).astype(np.intp) + 2
        rows = np.clip(np.rint(down) - 1, -1, side).astype(np.intp) + 2
        width, flat, limit = nearest.shape[1], nearest.ravel(), seen[2] - bias
        places = rows * width + columns
        steps = (row * width + column for row in (-1, 0, 1) for column in (-1, 0, 1))
        lit = np.add.reduce([flat.take(places + step) > limit for step in steps], dtype=np.float32) / 9
        return np.where(there, lit, np.float32(1))


def _filter(values: np.ndarray) -> np.ndarray:
    """Values at twice the side, (2S, 2S, C), to (S, S, C) float32: 1, 2, 1 both ways around the pixels' middles."""
    wide = np.concatenate([values[:1], values]).astype(np.uint16)  # the middles are the even rows
    tall = wide[:-1:2] + 2 * wide[1::2] + wide[2::2]
    full = np.concatenate([tall, tall[:, -1:]], axis=1)  # and the odd columns
    return ((full[:, :-1:2] + 2 * full[:, 1::2] + full[:, 2::2]) / np.float32(16)).astype(np.float32)


def connect() -> Any:
    """A client of pybullet without a window; `missing_pybullet` if it is not installed."""
    with silence():
        try:
            import pybullet
            from pybullet_utils.bullet_client import BulletClient
        except ImportError as error:
            raise missing_pybullet() from error
        return BulletClient(pybullet.DIRECT)


@contextmanager
def silence() -> Iterator[None]:
    """Keep what pybullet's C code prints, as it begins and ends, off the standard streams."""
    sys.stdout.flush()
    kept = [os.dup(stream) for stream in (1, 2)]
    with open(os.devnull, "wb") as nowhere:
        try:
            for stream in (1, 2):
                os.dup2(nowhere.fileno(), stream)
            yield
        finally:
            for stream, copy in zip((1, 2), kept, strict=True):
                os.dup2(copy, stream)
                os.close(copy)
