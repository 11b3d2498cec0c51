"""Textures of floors and walls, made by rule: the same in all scenes, with a tint of each scene's own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

SIDE = 128  # texels


def _noise(generator: np.random.Generator, cells: tuple[int, int]) -> np.ndarray:
    """Smooth noise in [0, 1] that repeats without a seam, (SIDE, SIDE), of random values at `cells`."""
    around = np.tile(generator.random(cells).astype(np.float32), (3, 3))
    smooth = Image.fromarray(around).resize((3 * SIDE, 3 * SIDE), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(smooth)[SIDE : 2 * SIDE, SIDE : 2 * SIDE], 0, 1).astype(np.float64)


def _rough(generator: np.random.Generator, amount: float) -> np.ndarray:
    noise = sum(_noise(generator, (n, n)) * weight for n, weight in ((4, 0.5), (16, 0.3), (64, 0.2)))
    return 1 - amount * np.asarray(noise)


def _planks(generator: np.random.Generator, rows: int) -> np.ndarray:
    height = SIDE // rows
    grain = _noise(generator, (SIDE, 3)) * 0.12 + _noise(generator, (SIDE // 2, 8)) * 0.08
    shades = generator.uniform(0.78, 1.0, 2 * rows)
    bright = np.ones((SIDE, SIDE))
    for row in range(rows):
        cut = int(generator.integers(SIDE))
        part = np.where((np.arange(SIDE) - cut) % SIDE < SIDE // 2, shades[2 * row], shades[2 * row + 1])
        bright[row * height : (row + 1) * height] = part
        bright[row * height] *= 0.65
        bright[row * height : (row + 1) * height, [cut, (cut + SIDE // 2) % SIDE]] *= 0.65
    return bright - grain


def _tiles(generator: np.random.Generator, across: int, joint: float) -> np.ndarray:
    step = SIDE // across
    shades = generator.uniform(0.9, 1.0, (across, across)).repeat(step, axis=0).repeat(step, axis=1)
    line = np.arange(SIDE) % step < 2
    shades[line | line[:, None]] = joint
    return shades - _noise(generator, (16, 16)) * 0.05


def _checks(generator: np.random.Generator, across: int, dark: float) -> np.ndarray:
    field = np.arange(SIDE) // (SIDE // across)
    return np.where((field + field[:, None]) % 2 == 0, 1.0, dark) - _noise(generator, (32, 32)) * 0.06


def _stripes(generator: np.random.Generator, across: int, dark: float) -> np.ndarray:
    column = np.where(np.arange(SIDE) // (SIDE // across) % 2 == 0, 1.0, dark)
    return np.tile(column, (SIDE, 1)) - _noise(generator, (16, 16)) * 0.03


def _bricks(generator: np.random.Generator, rows: int) -> np.ndarray:
    height, width = SIDE // rows, 2 * SIDE // rows
    bright = np.empty((SIDE, SIDE))
    for row in range(rows):
        columns = (np.arange(SIDE) + (row % 2) * width // 2) % SIDE
        bright[row * height : (row + 1) * height] = generator.uniform(0.75, 1.0, SIDE // width)[columns // width]
        bright[row * height : (row + 1) * height, columns % width < 2] = 1.1
        bright[row * height : row * height + 2] = 1.1
    return bright / 1.1 - _noise(generator, (64, 64)) * 0.1


FLOORS: tuple[tuple[str, Callable[[np.random.Generator], np.ndarray]], ...] = (
    ("wooden floor", lambda generator: _planks(generator, 8)),
    ("wooden floor", lambda generator: _planks(generator, 4)),
    ("tiled floor", lambda generator: _tiles(generator, 4, 0.7)),
    ("tiled floor", lambda generator: _tiles(generator, 8, 0.8)),
    ("checkered floor", lambda generator: _checks(generator, 4, 0.6)),
    ("carpet", lambda generator: _rough(generator, 0.35)),
    ("striped carpet", lambda generator: _stripes(generator, 8, 0.8)),
    ("concrete floor", lambda generator: _rough(generator, 0.2)),
    ("stone floor", lambda generator: _bricks(generator, 4)),
    ("grass", lambda generator: 1 - 0.55 * _noise(generator, (64, 64)) * _noise(generator, (8, 8))),
)
"""Name and brightness of each floor."""
FLOOR_TINTS: dict[str, tuple[tuple[int, int, int], ...]] = {
    "wooden floor": ((190, 140, 90), (150, 100, 60), (215, 180, 135), (120, 80, 55), (180, 165, 145)),
    "grass": ((110, 160, 70), (135, 165, 85), (95, 140, 65)),
    "concrete floor": ((180, 180, 178), (150, 150, 150), (205, 200, 190)),
    "stone floor": ((170, 160, 150), (140, 140, 145), (190, 175, 150)),
}
OTHER_TINTS = (
    *((235, 230, 220), (205, 200, 195), (170, 185, 200), (190, 205, 185), (215, 190, 180), (160, 150, 175)),
    *((200, 180, 130), (130, 155, 165), (180, 120, 110), (225, 215, 190)),
)
WALLS: tuple[Callable[[np.random.Generator], np.ndarray], ...] = (
    lambda generator: _rough(generator, 0.06),
    lambda generator: _rough(generator, 0.15),
    lambda generator: _stripes(generator, 8, 0.92),
    lambda generator: _bricks(generator, 8),
    lambda generator: _tiles(generator, 4, 0.85),
    lambda generator: _planks(generator, 8).T,
)
SKIES = (
    *(((120, 170, 225), (215, 230, 240)), ((160, 190, 215), (225, 225, 220)), ((235, 200, 175), (250, 235, 215))),
    *(((205, 210, 215), (235, 235, 235)), ((90, 110, 150), (190, 190, 205)), ((225, 225, 220), (245, 243, 238))),
)


def surface_texture(surface: str, number: int) -> np.ndarray:
    """Return a grey texture of a `floor` or a `wall`, (SIDE, SIDE) uint8."""
    make = FLOORS[number][1] if surface == "floor" else WALLS[number]
    bright = make(np.random.default_rng([surface == "floor", number]))
    return (np.clip(bright, 0, 1) * 255).round().astype(np.uint8)
