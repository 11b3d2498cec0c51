"""A pinhole camera with a square image: projection, rays through its pixels, and its parameters as JSON.

World: metres, z up. Camera: x right, y down, z forward. Image: u right and v down in pixels, 0 at the image's edge, so
that the middle of the pixel in row r and column c is at (c + 0.5, r + 0.5).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Camera:
    """A camera with a square image."""

    eye: tuple[float, float, float]
    """Position in metres."""
    target: tuple[float, float, float]
    """Point in the middle of the image, in metres."""
    angle: float
    """Field of view from edge to edge, in degrees."""
    near: float = 0.05
    far: float = 60.0
    """Depths between which objects are drawn, in metres."""

    @cached_property
    def rotation(self) -> np.ndarray:
        """World to camera axes (3, 3): the rows are the camera's x, y and z in the world."""
        forward = np.subtract(self.target, self.eye)
        forward /= np.linalg.norm(forward)
        x, y, z = forward.tolist()
        level = float(np.hypot(x, y))
        return np.array([[y / level, -x / level, 0.0], [x * z / level, y * z / level, -level], [x, y, z]])

    def focal(self, size: int) -> float:
        """Return the focal length in pixels of an image of this side."""
        return float(size / 2 / np.tan(np.radians(self.angle) / 2))

    def project(self, points: np.ndarray, size: int) -> np.ndarray:
        """Project world points (…, 3) to u, v and depth along the camera's axis (…, 3), in an image of this side."""
        local = (points - np.array(self.eye)) @ self.rotation.T
        depth = local[..., 2:]
        in_front = np.where(depth > 1e-9, depth, np.nan)
        return np.concatenate([size / 2 + self.focal(size) * local[..., :2] / in_front, depth], axis=-1)

    def rays_along(self, axes: np.ndarray, size: int) -> np.ndarray:
        """Return how far rays through the pixels' middles go along axes (K, 3) at a depth of 1: (K, S, S) float32."""
        steps = ((np.arange(size) + 0.5 - size / 2) / self.focal(size)).astype(np.float32)
        right, down, forward = (self.rotation @ axes.T).astype(np.float32)[..., None, None]  # (K, 1, 1) each
        return right * steps + (down * steps[:, None] + forward)

    def depth_of(self, buffer: np.ndarray) -> np.ndarray:
        """Turn values in [0, 1] of OpenGL's depth buffer into metres along the camera's axis."""
        return self.far * self.near / (self.far - (self.far - self.near) * buffer.astype(np.float64))

    def to_json(self, size: int) -> dict[str, Any]:
        """Return the intrinsics (3, 3), the world-to-camera rotation (3, 3) and translation (3), and the position."""
        focal = self.focal(size)
        return {
            "intrinsics": [[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]],
            "rotation": self.rotation.tolist(),
            "translation": (-self.rotation @ np.array(self.eye)).tolist(),
            "position": list(self.eye),
        }
