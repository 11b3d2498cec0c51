"""Paint floors, walls and the sky behind the objects: rays meet planes, exactly, without the renderer.

Textures come from a pyramid of ever smaller copies, so that they do not shimmer in the distance.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from PIL import Image

from synthetic.scenes.layout.camera import Camera
from synthetic.scenes.layout.scene import Plane, Scene
from synthetic.scenes.layout.surfaces import SIDE, surface_texture

GRAZING = 0.15  # below this cosine a texture is not filtered further
SOFTER = 0.7  # levels that textures are filtered beyond a pixel, because texels are not interpolated


@dataclass(frozen=True)
class Backdrop:
    """The room and the sky behind the objects of a scene."""

    ambient: np.ndarray
    """(S, S, 3) float32 in 0..255: colours in the shadow."""
    direct: np.ndarray
    """(S, S, 3) float32: what the light adds."""
    depth: np.ndarray
    """(S, S) float32: metres along the camera's axis, infinite in the sky."""


@lru_cache(maxsize=1)  # the camera of most videos stands still
def paint_backdrop(scene: Scene, camera: Camera, side: int) -> Backdrop:
    """Paint a scene's planes and sky as a camera sees them."""
    top, bottom = (np.array(colour, np.float32) for colour in scene.sky)
    fraction = np.linspace(0, 1, side, dtype=np.float32)[:, None, None]
    ambient = np.broadcast_to(top + fraction * (bottom - top), (side, side, 3)).copy()
    direct, depth = np.zeros(ambient.shape, np.float32), np.full((side, side), np.inf, np.float32)
    light = scene.light
    for plane in scene.planes:
        right, up, normal = axes = np.stack(plane.axes)
        offsets = (axes @ np.subtract(plane.corner, camera.eye)).astype(np.float32)  # the corner, from the eye
        across, along, facing = camera.rays_along(axes, side)  # (S, S) each, one metre along the camera's axis
        with np.errstate(divide="ignore", invalid="ignore"):
            distance = offsets[2] / facing
            across, along = across * distance - offsets[0], along * distance - offsets[1]  # metres, from the corner
        hit = (facing < 0) & (distance > camera.near) & (distance < depth)
        for position, length in ((across, right @ plane.right), (along, up @ plane.up)):
            hit &= (position >= 0) & (position <= float(length))
        brightness = _look_up(plane, across[hit], along[hit], distance[hit], facing[hit], camera.focal(side))
        colour = brightness[:, None] * np.array(plane.tint, np.float32) * 255
        strength = light.diffuse * max(float(normal @ np.array(light.towards)), 0.0)
        ambient[hit] = colour * light.ambient
        direct[hit] = colour * strength * np.array(light.colour, np.float32)
        depth[hit] = distance[hit]
    return Backdrop(ambient, direct, depth)


def _look_up(
    plane: Plane, across: np.ndarray, along: np.ndarray, depth: np.ndarray, facing: np.ndarray, focal: float
) -> np.ndarray:
    """Brightness in [0, 1] of points on a plane (n,), filtered to the size of a pixel there."""
    scale = SIDE / plane.repeat  # texels a metre
    covered = depth / focal * scale / np.maximum(-facing, GRAZING)
    levels = texture_pyramid(plane.surface, plane.texture)
    level = np.clip(np.rint(np.log2(np.maximum(covered, 1)) + SOFTER), 0, len(levels) - 1).astype(np.intp)
    rows, columns = (along * scale).astype(np.intp) % SIDE, (across * scale).astype(np.intp) % SIDE
    return levels[level, rows, columns]


@cache
def texture_pyramid(surface: str, number: int) -> np.ndarray:
    """Return a texture and its copies filtered to half the detail each, (levels, SIDE, SIDE) float32 in [0, 1]."""
    whole = Image.fromarray(surface_texture(surface, number))
    sizes = [SIDE >> level for level in range(SIDE.bit_length())]
    levels = [
        np.asarray(whole.resize((size, size), Image.Resampling.BOX)).repeat(SIDE // size, 0).repeat(SIDE // size, 1)
        for size in sizes
    ]
    return np.stack(levels).astype(np.float32) / 255
