"""Read Wavefront OBJ files with their MTL files: triangles, texture coordinates, and what each material looks like.

Only what is seen is read: positions, texture coordinates, normals, faces, materials' diffuse colours and
textures. Polygons become fans of triangles; lines and curves are passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from perception_encoder.errors import MediaDecodeError

Read = Callable[[str], bytes]
"""Gives the content of a file beside the OBJ by its name; KeyError or OSError where there is none."""


@dataclass(frozen=True, kw_only=True)
class Material:
    """How a part of a surface looks."""

    colour: tuple[float, float, float] = (0.8, 0.8, 0.8)
    """Red, green and blue in [0, 1]; where there is a texture, it takes the colour's place."""
    texture: bytes | None = None
    """A picture file's content."""


@dataclass(frozen=True, kw_only=True)
class Triangles:
    """A surface as triangles that share positions."""

    positions: np.ndarray
    """(V, 3) float64."""
    faces: np.ndarray
    """(F, 3) rows of `positions`."""
    uv: np.ndarray
    """(F, 3, 2) texture coordinates of each corner; 0 where the file has none."""
    normals: np.ndarray
    """(F, 3) what the file says of each face's outer side, 0 where it says nothing."""
    materials: np.ndarray
    """(F,) the number of each face's material."""
    looks: tuple[Material, ...]
    """The materials by number."""


@dataclass
class _Parts:
    positions: list[list[float]] = field(default_factory=list)
    uv: list[list[float]] = field(default_factory=list)
    normals: list[list[float]] = field(default_factory=list)
    corners: list[tuple[int, ...]] = field(default_factory=list)  # of each triangle: 3 positions, 3 uv, 3 normals
    materials: list[int] = field(default_factory=list)
    looks: list[Material] = field(default_factory=lambda: [Material()])
    numbers: dict[str, int] = field(default_factory=dict)


def read_obj(name: str, read: Read) -> Triangles:
    """Read an OBJ file through `read`; MediaDecodeError where it is no OBJ or holds no face."""
    parts, current = _Parts(), 0
    try:
        for line in read(name).decode("utf-8", "replace").replace("\\\n", " ").splitlines():
            kind, *values = line.split() or [""]
            if kind == "v":
                parts.positions.append([float(value) for value in values[:3]])
            elif kind == "vt":
                parts.uv.append([float(value) for value in (*values, "0")[:2]])
            elif kind == "vn":
                parts.normals.append([float(value) for value in values[:3]])
            elif kind == "f":
                _add_face(parts, values, current)
            elif kind == "mtllib":
                _add_materials(parts, line.split(maxsplit=1)[1].strip(), read)
            elif kind == "usemtl":
                current = parts.numbers.get(" ".join(values), 0)
        return _assemble(parts)
    except (ValueError, IndexError, KeyError, OSError) as error:
        raise MediaDecodeError(name, f"not a readable OBJ file ({error})") from error


def _add_face(parts: _Parts, corners: list[str], material: int) -> None:
    counts = (len(parts.positions), len(parts.uv), len(parts.normals))
    rows = []
    for corner in corners:
        numbers = [int(number) if number else 0 for number in (*corner.split("/"), "", "")[:3]]
        # from 1, or from the end where negative; -1 is none
        rows.append([n - 1 if n > 0 else count + n if n < 0 else -1 for n, count in zip(numbers, counts, strict=True)])
    for second, third in pairwise(rows[1:]):
        parts.corners.append(tuple(row[kind] for kind in range(3) for row in (rows[0], second, third)))
        parts.materials.append(material)


def _add_materials(parts: _Parts, name: str, read: Read) -> None:
    try:
        text = read(name).decode("utf-8", "replace")
    except (KeyError, OSError):
        return  # a model without its colours is still one
    for key, material in _materials(text, read):
        parts.numbers[key] = len(parts.looks)
        parts.looks.append(material)


def _materials(text: str, read: Read) -> Iterator[tuple[str, Material]]:
    name, colour, texture = "", (0.8, 0.8, 0.8), None
    for line in (*text.splitlines(), "newmtl"):
        kind, *values = line.split() or [""]
        if kind == "newmtl":
            if name:
                yield name, Material(colour=colour, texture=texture)
            name, colour, texture = " ".join(values), (0.8, 0.8, 0.8), None
        elif kind == "Kd" and values[0] not in ("spectral", "xyz"):
            red, green, blue = (float(value) for value in (values * 3)[:3])
            colour = (red, green, blue)
        elif kind == "map_Kd":
            texture = _read_texture(values, read)


def _read_texture(values: list[str], read: Read) -> bytes | None:
    for name in (" ".join(values), values[-1]):  # a name with spaces, or one after options
        try:
            return read(name.replace("\\", "/"))
        except (KeyError, OSError):
            continue
    return None


def _assemble(parts: _Parts) -> Triangles:
    if not parts.corners:
        raise ValueError("it holds no face")
    corners = np.array(parts.corners, dtype=np.int64).reshape(-1, 3, 3)  # (F, kind, corner)
    positions = np.array(parts.positions, dtype=np.float64)
    faces = corners[:, 0]
    if faces.min() < 0 or faces.max() >= len(positions) or not np.isfinite(positions).all():
        raise ValueError("a face has a corner that does not exist")
    uv = np.array([*parts.uv, [0.0, 0.0]], dtype=np.float64)  # row -1 stands for none
    normals = np.array([*parts.normals, [0.0, 0.0, 0.0]], dtype=np.float64)
    return Triangles(
        positions=positions,
        faces=faces,
        uv=np.nan_to_num(uv[corners[:, 1]]),
        normals=np.nan_to_num(normals[corners[:, 2]]).sum(axis=1),
        materials=np.array(parts.materials, dtype=np.int64),
        looks=tuple(parts.looks),
    )
