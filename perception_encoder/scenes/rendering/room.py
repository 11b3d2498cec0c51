"""Paint floors, walls and the sky behind the things: rays meet planes, exactly, without the renderer.

Textures come from a pyramid of ever more filtered copies, so that they do not shimmer in the distance.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

from perception_encoder.scenes.layout.camera import Camera
from perception_encoder.scenes.layout.scene import Plane, Scene
from perception_encoder.scenes.layout.surfaces import SIDE, texture

GRAZING = 0.15  # below this cosine a texture is not filtered further
SOFTER = 0.7  # levels that textures are filtered beyond a pixel, for places on them are not interpolated


@dataclass(frozen=True)
class Backdrop:
    """What is behind the things of a scene."""

    ambient: np.ndarray
    """(S, S, 3) float32 in 0..255: its colours where the light does not reach."""
    direct: np.ndarray
    """(S, S, 3) float32: what the light adds."""
    depth: np.ndarray
    """(S, S) float32: metres along the camera's axis, infinite in the sky."""


def paint(scene: Scene, camera: Camera, side: int) -> Backdrop:
    """Paint a scene's planes and sky as a camera sees them."""
    top, bottom = (np.array(colour, np.float32) for colour in scene.sky)
    part = np.linspace(0, 1, side, dtype=np.float32)[:, None, None]
    ambient = np.broadcast_to(top + part * (bottom - top), (side, side, 3)).copy()
    direct, depth = np.zeros(ambient.shape, np.float32), np.full((side, side), np.inf, np.float32)
    light = scene.light
    for plane in scene.planes:
        right, up, normal = axes = np.stack(plane.axes)
        offsets = (axes @ np.subtract(plane.corner, camera.eye)).astype(np.float32)  # the corner, from the eye
        across, along, facing = camera.rays_along(axes, side)  # (S, S) each, one metre along the camera's axis
        with np.errstate(divide="ignore", invalid="ignore"):
            reached = offsets[2] / facing
            across, along = across * reached - offsets[0], along * reached - offsets[1]  # metres, from the corner
        met = (facing < 0) & (reached > camera.near) & (reached < depth)
        for place, length in ((across, right @ plane.right), (along, up @ plane.up)):
            met &= (place >= 0) & (place <= float(length))
        bright = _look_up(plane, across[met], along[met], reached[met], facing[met], camera.focal(side))
        colour = bright[:, None] * np.array(plane.tint, np.float32) * 255
        reach = light.diffuse * max(float(normal @ np.array(light.towards)), 0.0)
        ambient[met] = colour * light.ambient
        direct[met] = colour * reach * np.array(light.colour, np.float32)
        depth[met] = reached[met]
    return Backdrop(ambient, direct, depth)


def _look_up(
    plane: Plane, across: np.ndarray, along: np.ndarray, depth: np.ndarray, facing: np.ndarray, focal: float
) -> np.ndarray:
    """Brightness in [0, 1] of places on a plane (n,), filtered to what a pixel covers there."""
    scale = SIDE / plane.repeat  # texels a metre
    covered = depth / focal * scale / np.maximum(-facing, GRAZING)
    levels = pyramid(plane.kind, plane.texture)
    level = np.clip(np.rint(np.log2(np.maximum(covered, 1)) + SOFTER), 0, len(levels) - 1).astype(np.intp)
    rows, columns = (along * scale).astype(np.intp) % SIDE, (across * scale).astype(np.intp) % SIDE
    return levels[level, rows, columns]


@cache
def pyramid(kind: str, number: int) -> np.ndarray:
    """A texture and its copies filtered to half the detail each, (levels, SIDE, SIDE) float32 in [0, 1]."""
    whole = Image.fromarray(texture(kind, number))
    sizes = [SIDE >> level for level in range(SIDE.bit_length())]
    levels = [
        np.asarray(whole.resize((size, size), Image.Resampling.BOX)).repeat(SIDE // size, 0).repeat(SIDE // size, 1)
        for size in sizes
    ]
    return np.stack(levels).astype(np.float32) / 255
