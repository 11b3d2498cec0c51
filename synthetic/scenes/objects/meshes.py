"""Turn triangles with many materials into a small mesh with one small texture, which the renderer draws fast.

Meshes over the budget are decimated by quadric error (the library fast-simplification); if they have too many loose
parts for that, their positions are merged on a grid. Each remaining face keeps the material and the texture coordinates
of its original. All materials share one atlas: a tile for each texture, filtered to the size of the tile, and a few
texels for each plain colour.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from synthetic.errors import MissingGroupError
from synthetic.scenes.objects.wavefront import Material, Triangles

FACE_BUDGET = 1000  # faces of a mesh
ATLAS, CELL, SMALLEST_TILE = 128, 4, 16  # texels: the atlas's width, a plain colour's side, a texture's side
CREASE = np.cos(np.radians(50))  # faces that meet at a wider angle have a sharp edge between them
WELD = 1e-5  # of the mesh's size: positions closer than this are merged
OVER = 1.1  # times the budget: faces that a mesh may have
FINEST = 100  # steps of the first grid on which positions are merged; each later grid has a fifth fewer


@dataclass(frozen=True, kw_only=True)
class Mesh:
    """A mesh with one texture, as the renderer draws it."""

    vertices: np.ndarray
    """(V, 3) float32, metres; x to the right, y to the back, z up from 0."""
    normals: np.ndarray
    """(V, 3) float32, unit length."""
    uv: np.ndarray
    """(V, 2) float32 in [0, 1], from the texture's lower left corner."""
    faces: np.ndarray
    """(F, 3) int32, counter-clockwise from outside."""
    texture: np.ndarray
    """(H, W, 3) uint8."""

    @property
    def size(self) -> tuple[float, float, float]:
        """Width, depth and height in metres."""
        width, depth, height = np.ptp(self.vertices, axis=0).tolist()
        return width, depth, height

    @property
    def areas(self) -> np.ndarray:
        """Area of each face (F,), in square metres."""
        return np.linalg.norm(self.crosses, axis=1) / 2

    @property
    def crosses(self) -> np.ndarray:
        """Normal of each face (F, 3), as long as twice its area."""
        return _crosses(self.vertices.astype(np.float64), self.faces)

    def colours(self, count: int) -> np.ndarray:
        """Return the colours of `count` points spread evenly over the surface: (count, 3) uint8."""
        ends = np.cumsum(self.areas)
        numbers = np.searchsorted(ends, (np.arange(count) + 0.5) / count * ends[-1])
        u, v = self.uv[self.faces[numbers]].mean(axis=1).T
        height, width = self.texture.shape[:2]
        return self.texture[np.minimum(((1 - v) * height).astype(int), height - 1), (u * width).astype(int)]


def bake(triangles: Triangles, budget: int = FACE_BUDGET) -> Mesh:
    """Make a mesh of about `budget` faces at most, in the axes and the size of the triangles."""
    positions, rows = _weld(triangles.corners.reshape(-1, 3))
    positions, corners, source = _decimate(positions, rows.reshape(-1, 3), budget)
    uv, texture = _atlas(triangles, source)
    corners, uv = _orient(positions, corners, uv, triangles.normals[source])
    normals = _normals(positions, corners)
    table = np.concatenate([positions[corners], normals, uv], axis=2).reshape(-1, 8).astype(np.float32)
    unique, inverse = np.unique(table.round(5), axis=0, return_inverse=True)
    return Mesh(
        vertices=unique[:, :3].copy(),
        normals=unique[:, 3:6].copy(),
        uv=unique[:, 6:].copy(),
        faces=inverse.reshape(-1, 3).astype(np.int32),
        texture=texture,
    )


def stand_upright(
    triangles: Triangles, size: tuple[float, float, float], rotation: np.ndarray | None = None
) -> Triangles:
    """Turn triangles from y up and front +z to x right, y back, z up, and scale them to `size` in metres.

    The origin is then the middle of the bottom. `rotation`: (3, 3), applied first.
    """
    turn = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]) @ (np.eye(3) if rotation is None else rotation)
    corners, normals = triangles.corners @ turn.T, triangles.normals @ turn.T
    low, extent = corners.min(axis=(0, 1)), np.ptp(corners, axis=(0, 1))
    scale = np.array(size) / np.maximum(extent, 1e-9)
    middle = low + extent * (0.5, 0.5, 0)
    return replace(triangles, corners=(corners - middle) * scale, normals=normals / scale)


def _weld(positions: np.ndarray, closeness: float = WELD) -> tuple[np.ndarray, np.ndarray]:
    """Merge positions closer than this part of the size: the remaining ones (v, 3), and the row of each old one."""
    step = closeness * max(np.ptp(positions, axis=0).max(), 1e-9)
    _, first, inverse = np.unique(np.round(positions / step), axis=0, return_index=True, return_inverse=True)
    return positions[first], inverse.ravel()


def _decimate(positions: np.ndarray, corners: np.ndarray, budget: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return positions, faces (F, 3) and the number of each face's original; faces without an area are dropped."""
    source = np.flatnonzero(_has_area(positions, corners))
    corners = corners[source]
    if len(corners) <= budget:
        return positions, corners, source
    try:
        import fast_simplification
    except ImportError as error:
        raise MissingGroupError("fast-simplification") from error
    points, faces = positions.astype(np.float32), corners.astype(np.int32)
    *_, collapses = fast_simplification.simplify(points, faces, target_count=budget, return_collapses=True)
    points, _, rows = fast_simplification.replay_simplification(points, faces, collapses)
    positions = points.astype(np.float64)
    corners, source = _unique_faces(positions, rows[corners], source)
    steps = float(FINEST)
    while len(corners) > OVER * budget:
        positions, rows = _weld(positions, 1 / steps)
        corners, source = _unique_faces(positions, rows[corners], source)
        steps *= 0.8
    return positions, corners, source


def _unique_faces(positions: np.ndarray, corners: np.ndarray, source: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the faces (F, 3) that have an area, each once, and the numbers of their originals."""
    valid = _has_area(positions, corners)
    corners, source = corners[valid], source[valid]
    first = np.sort(np.unique(np.sort(corners, axis=1), axis=0, return_index=True)[1])
    return corners[first], source[first]


def _crosses(positions: np.ndarray, faces: np.ndarray) -> np.ndarray:
    first, second, third = np.moveaxis(positions[faces], 1, 0)
    return np.cross(second - first, third - first)


def _has_area(positions: np.ndarray, corners: np.ndarray) -> np.ndarray:
    areas = np.linalg.norm(_crosses(positions, corners), axis=1)
    return areas > 1e-9 * max(np.ptp(positions, axis=0).max(), 1e-9) ** 2


def _orient(
    positions: np.ndarray, corners: np.ndarray, uv: np.ndarray, outside: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Flip the faces whose order of corners contradicts the file's normals."""
    wrong = (_crosses(positions, corners) * outside).sum(axis=1) < 0
    corners, uv = corners.copy(), uv.copy()
    corners[wrong] = corners[wrong][:, ::-1]
    uv[wrong] = uv[wrong][:, ::-1]
    return corners, uv


def _normals(positions: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Unit normals of each face's corners (F, 3, 3): the mean of the adjacent faces that are not beyond a crease."""
    crosses = _crosses(positions, corners)
    units = crosses / np.linalg.norm(crosses, axis=1, keepdims=True)
    flat = corners.ravel()
    order = np.argsort(flat, kind="stable")
    counts = np.bincount(flat, minlength=len(positions))
    starts = np.cumsum(counts) - counts
    here = np.repeat(np.arange(len(flat)), counts[flat])  # each corner, once for every corner at its position
    offsets = np.arange(len(here)) - np.repeat(np.cumsum(counts[flat]) - counts[flat], counts[flat])
    there = order[starts[flat[here]] + offsets] // 3
    near = (units[here // 3] * units[there]).sum(axis=1) >= CREASE
    total = np.zeros((len(flat), 3))
    np.add.at(total, here[near], crosses[there[near]])
    length = np.linalg.norm(total, axis=1, keepdims=True)
    return (total / np.maximum(length, 1e-12)).reshape(-1, 3, 3)


def _atlas(triangles: Triangles, source: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each face's texture coordinates (F, 3, 2) in an atlas of all materials, and the atlas."""
    ids, uv = triangles.material_ids[source], triangles.uv[source]
    uv = uv - np.floor(uv.min(axis=1, keepdims=True))  # textures repeat
    used = np.unique(ids)
    textures = {number: image for number in used if (image := _open(triangles.materials[number])) is not None}
    plain = [number for number in used if number not in textures]
    across = int(np.ceil(np.sqrt(max(len(textures), 1))))
    side = max(ATLAS // across, SMALLEST_TILE)
    tiles_down = -(-len(textures) // across)
    width = max(side * across, ATLAS) if textures else CELL * min(len(plain), ATLAS // CELL)
    per_row = width // CELL
    height = side * tiles_down + CELL * -(-len(plain) // per_row)
    atlas, texels = np.zeros((height, width, 3), np.uint8), np.empty_like(uv)
    for cell, (number, image) in enumerate(textures.items()):
        top, left, rows = cell // across * side, cell % across * side, ids == number
        low, high = uv[rows].min(axis=(0, 1)), uv[rows].max(axis=(0, 1))
        atlas[top : top + side, left : left + side] = _tile(image, low, high, side)
        inside = (uv[rows] - low) / np.maximum(high - low, 1e-9)  # in [0, 1], y up
        texels[rows, :, 0] = left + 0.5 + inside[..., 0] * (side - 1)
        texels[rows, :, 1] = top + side - 0.5 - inside[..., 1] * (side - 1)
    for cell, number in enumerate(plain):
        top, left = side * tiles_down + cell // per_row * CELL, cell % per_row * CELL
        colour = np.clip(np.array(triangles.materials[number].colour) * 255, 0, 255).round()
        atlas[top : top + CELL, left : left + CELL] = colour
        texels[ids == number] = (left + CELL / 2, top + CELL / 2)
    return np.stack([texels[..., 0] / width, 1 - texels[..., 1] / height], axis=-1), atlas


def _open(material: Material) -> Image.Image | None:
    """The material's texture without transparency: invisible texels take the mean colour of the visible ones."""
    if material.texture is None:
        return None
    try:
        material.texture.draft("RGB", (2 * ATLAS, 2 * ATLAS))
        colours = np.asarray(material.texture.convert("RGBA"), dtype=np.float64)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    alpha = colours[..., 3:] / 255
    mean = (colours[..., :3] * alpha).sum(axis=(0, 1)) / max(alpha.sum(), 1e-9)
    return Image.fromarray((colours[..., :3] * alpha + mean * (1 - alpha)).round().astype(np.uint8))


def _tile(image: Image.Image, low: np.ndarray, high: np.ndarray, side: int) -> np.ndarray:
    """The part [low, high] of a repeated texture, (side, side, 3) uint8, filtered to that size."""
    extent = np.maximum(high - low, 1e-3)
    once = np.clip(np.round(side / extent), 1, [image.width, image.height]).astype(int)  # texels a repeat
    small = np.asarray(image.resize((int(once[0]), int(once[1])), Image.Resampling.BOX))
    steps = np.arange(side) / (side - 1)
    columns = np.floor((low[0] + steps * (high[0] - low[0])) % 1 * once[0]).astype(int)
    rows = np.floor((1 - (high[1] - steps * (high[1] - low[1])) % 1) * once[1]).astype(int)
    return small[np.minimum(rows, once[1] - 1)[:, None], np.minimum(columns, once[0] - 1)]
