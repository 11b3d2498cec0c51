"""What a scene is before it is drawn: things in places, a room around them, a light and a camera."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from perception_encoder.scenes.layout.camera import Camera

CORNERS = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (0.0, 1.0)])
"""Of a box of size 1 that stands on the origin."""


@dataclass(frozen=True, kw_only=True)
class Thing:
    """A model in its place."""

    model: str
    """Its key in the library."""
    position: tuple[float, float, float]
    """Where the middle of its bottom is, in metres."""
    turn: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 1.0)
    """How it is turned: a quaternion x, y, z, w."""
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """What its own colours are multiplied by."""
    on: int | None = None
    """The number of the thing that it stands on; None is the floor."""

    @property
    def rotation(self) -> np.ndarray:
        """Model to world axes, (3, 3)."""
        return rotation_of(self.turn)


@dataclass(frozen=True, kw_only=True)
class Plane:
    """A level or upright rectangle with a texture: a floor or a wall."""

    corner: tuple[float, float, float]
    right: tuple[float, float, float]
    """From the corner along one side, in metres."""
    up: tuple[float, float, float]
    """From the corner along the other; it is seen from the side that `right` × `up` points to."""
    texture: int
    """The number of its texture among those of its kind."""
    tint: tuple[float, float, float]
    repeat: float
    """Metres that the texture covers before it repeats."""
    kind: str
    """`floor` or `wall`."""

    @property
    def axes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Unit vectors (3,) along both sides and to the side that it is seen from."""
        right, up = (np.array(side) / np.linalg.norm(side) for side in (self.right, self.up))
        return right, up, np.cross(right, up)


@dataclass(frozen=True, kw_only=True)
class Light:
    """One light far away, and what comes from all sides."""

    towards: tuple[float, float, float]
    """Unit vector to the light."""
    colour: tuple[float, float, float]
    ambient: float
    diffuse: float
    shade: float
    """What part of the brightness a shadow takes."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """All that is drawn."""

    things: tuple[Thing, ...]
    planes: tuple[Plane, ...]
    light: Light
    camera: Camera
    sky: tuple[tuple[int, int, int], tuple[int, int, int]]
    """Colours of the top and the bottom of what is behind everything."""
    floor: str
    """What the floor is called."""
    radius: float
    """Of a ball around the origin with all things in it, in metres."""


def rotation_of(turn: Sequence[float] | np.ndarray) -> np.ndarray:
    """Quaternions x, y, z, w (…, 4) as matrices (…, 3, 3)."""
    x, y, z, w = np.asarray(turn, dtype=np.float64).T
    transposed = [
        [1 - 2 * (y * y + z * z), 2 * (x * y + z * w), 2 * (x * z - y * w)],
        [2 * (x * y - z * w), 1 - 2 * (x * x + z * z), 2 * (y * z + x * w)],
        [2 * (x * z + y * w), 2 * (y * z - x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.array(transposed).T


def corners_of(positions: np.ndarray, turns: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The corners (…, 8, 3) of boxes by the middles of their bottoms (…, 3), turns (…, 4) and sizes (…, 3)."""
    return (CORNERS * sizes[..., None, :]) @ rotation_of(turns).swapaxes(-1, -2) + positions[..., None, :]


def triple(values: np.ndarray) -> tuple[float, float, float]:
    """An array (3,) as plain numbers."""
    first, second, third = values.tolist()
    return first, second, third


def yaw(angle: float) -> tuple[float, float, float, float]:
    """A turn about the vertical by radians, as a quaternion."""
    return 0.0, 0.0, float(np.sin(angle / 2)), float(np.cos(angle / 2))
