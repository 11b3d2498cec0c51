"""What a scene is before it is drawn: things in places, a room around them, a light and a camera."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perception_encoder.scenes.camera import Camera


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
    def lengths(self) -> tuple[float, float]:
        """Of both sides, in metres."""
        return float(np.linalg.norm(self.right)), float(np.linalg.norm(self.up))

    @property
    def axes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Unit vectors (3,) along both sides and to the side that it is seen from."""
        right, up = (np.array(side) / length for side, length in zip((self.right, self.up), self.lengths, strict=True))
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


def rotation_of(turn: tuple[float, float, float, float]) -> np.ndarray:
    """A quaternion x, y, z, w as a matrix (3, 3)."""
    x, y, z, w = turn
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def yaw(angle: float) -> tuple[float, float, float, float]:
    """A turn about the vertical by radians, as a quaternion."""
    return 0.0, 0.0, float(np.sin(angle / 2)), float(np.cos(angle / 2))
