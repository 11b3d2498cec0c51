"""A scene before it is drawn: objects and their positions, the room around them, a light and a camera."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from synthetic.scenes.layout.camera import Camera

CORNERS = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (0.0, 1.0)])
"""Corners of a box of size 1 that stands on the origin."""
LEAST_VISIBLE = 0.0025
"""Part of the image's pixels that every object of a scene has to cover."""


@dataclass(frozen=True, kw_only=True)
class PlacedObject:
    """An object of a scene."""

    model: str
    """Its key in the library."""
    position: tuple[float, float, float]
    """Middle of its bottom, in metres."""
    turn: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 1.0)
    """Its rotation as a quaternion x, y, z, w."""
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Factors of its red, green and blue."""
    on: int | None = None
    """Index of the object that it stands on; None is the floor."""

    @property
    def rotation(self) -> np.ndarray:
        """Model to world axes, (3, 3)."""
        return rotation_matrix(self.turn)


@dataclass(frozen=True, kw_only=True)
class Plane:
    """A level or upright rectangle with a texture: a floor or a wall."""

    corner: tuple[float, float, float]
    right: tuple[float, float, float]
    """From the corner along one side, in metres."""
    up: tuple[float, float, float]
    """From the corner along the other side; the visible face is the one that `right` × `up` points to."""
    surface: Literal["floor", "wall"]
    texture: int
    """Number of its texture among the floors or walls."""
    tint: tuple[float, float, float]
    repeat: float
    """Metres that the texture covers before it repeats."""

    @property
    def axes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Unit vectors (3,) along both sides and out of the visible face."""
        right, up = (np.array(side) / np.linalg.norm(side) for side in (self.right, self.up))
        return right, up, np.cross(right, up)


@dataclass(frozen=True, kw_only=True)
class Light:
    """One distant light, and ambient light."""

    towards: tuple[float, float, float]
    """Unit vector to the light."""
    colour: tuple[float, float, float]
    ambient: float
    diffuse: float
    shade: float
    """Part of the brightness that a shadow takes."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Everything that the renderer draws."""

    objects: tuple[PlacedObject, ...]
    planes: tuple[Plane, ...]
    light: Light
    camera: Camera
    sky: tuple[tuple[int, int, int], tuple[int, int, int]]
    """Colours of the sky at the top and at the bottom of the image."""
    floor: str
    """Name of the floor."""
    radius: float
    """Radius in metres of a ball around the origin that holds all objects."""


def rotation_matrix(turn: Sequence[float] | np.ndarray) -> np.ndarray:
    """Turn quaternions x, y, z, w (…, 4) into matrices (…, 3, 3)."""
    x, y, z, w = np.asarray(turn, dtype=np.float64).T
    transposed = [
        [1 - 2 * (y * y + z * z), 2 * (x * y + z * w), 2 * (x * z - y * w)],
        [2 * (x * y - z * w), 1 - 2 * (x * x + z * z), 2 * (y * z + x * w)],
        [2 * (x * z + y * w), 2 * (y * z - x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.array(transposed).T


def box_corners(positions: np.ndarray, turns: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return the corners (…, 8, 3) of boxes, given the middles of their bottoms (…, 3), turns (…, 4), sizes (…, 3)."""
    return (CORNERS * sizes[..., None, :]) @ rotation_matrix(turns).swapaxes(-1, -2) + positions[..., None, :]


def triple(values: np.ndarray) -> tuple[float, float, float]:
    """Turn an array (3,) into Python's floats."""
    first, second, third = values.tolist()
    return first, second, third


def yaw(angle: float) -> tuple[float, float, float, float]:
    """Return a rotation about the vertical by radians, as a quaternion."""
    return 0.0, 0.0, float(np.sin(angle / 2)), float(np.cos(angle / 2))
