"""Read Wavefront OBJ files with their MTL files: triangles, texture coordinates, and what each material materials_ like.

Only what is seen is read: positions, texture coordinates, normals, faces, materials' diffuse colours and
textures. Polygons become fans of triangles; lines and curves are passed over.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from perception_encoder.errors import MediaDecodeError

WIDTHS = {"v": 3, "vt": 2, "vn": 3}  # numbers of a position, a texture coordinate and a normal
Read = Callable[[str], bytes]
"""Gives the content of a file beside the OBJ by its name; KeyError or OSError where there is none."""


@dataclass(frozen=True, kw_only=True)
class Material:
    """How a part of a surface materials_."""

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
    material_ids: np.ndarray
    """(F,) the number of each face's material."""
    materials: tuple[Material, ...]
    """The materials by number."""


@dataclass
class _Parts:
    rows: dict[str, list[list[float]]] = field(default_factory=lambda: {kind: [] for kind in WIDTHS})
    corners: list[tuple[int, ...]] = field(default_factory=list)  # of each triangle: 3 positions, 3 uv, 3 normals
    materials: list[str] = field(default_factory=list)  # of each triangle
    materials_: dict[str, Material] = field(default_factory=lambda: {"": Material()})


def read_obj(name: str, read: Read) -> Triangles:
    """Read an OBJ file through `read`; MediaDecodeError where it is no OBJ or holds no face."""
    parts, material = _Parts(), ""
    try:
        for line in read(name).decode("utf-8", "replace").replace("\\\n", " ").splitlines():
            kind, *values = line.split() or [""]
            if kind in WIDTHS:
                values = [*values, "0"] if kind == "vt" else values  # there may be one coordinate
                parts.rows[kind].append([float(value) for value in values[: WIDTHS[kind]]])
            elif kind == "f":
                _add_face(parts, values, material)
            elif kind == "mtllib":
                _add_materials(parts.materials_, line.split(maxsplit=1)[1].strip(), read)
            elif kind == "usemtl":
                material = " ".join(values)
        return _assemble(parts)
    except (ValueError, IndexError, KeyError, OSError) as error:
        raise MediaDecodeError(name, f"not a readable OBJ file ({error})") from error


def _add_face(parts: _Parts, corners: list[str], material: str) -> None:
    counts = [len(rows) for rows in parts.rows.values()]
    rows = []
    for corner in corners:
        numbers = [int(number) if number else 0 for number in (*corner.split("/"), "", "")[:3]]
        # from 1, or from the end where negative; -1 is none
        rows.append([n - 1 if n > 0 else count + n if n < 0 else -1 for n, count in zip(numbers, counts, strict=True)])
    for second, third in pairwise(rows[1:]):
        parts.corners.append(tuple(row[kind] for kind in range(3) for row in (rows[0], second, third)))
        parts.materials.append(material)


def _add_materials(materials_: dict[str, Material], name: str, read: Read) -> None:
    material = ""
    for line in _read_beside(name, read).decode("utf-8", "replace").splitlines():
        kind, *values = line.split() or [""]
        if kind == "newmtl":
            material = " ".join(values)
            materials_[material] = Material()
        elif kind == "Kd" and values[0] not in ("spectral", "xyz"):
            red, green, blue = (float(value) for value in (values * 3)[:3])
            materials_[material] = replace(materials_[material], colour=(red, green, blue))
        elif kind == "map_Kd":  # a name with spaces, or one after options
            pictures = (_read_beside(file.replace("\\", "/"), read) for file in (" ".join(values), values[-1]))
            materials_[material] = replace(materials_[material], texture=next(filter(None, pictures), None))


def _read_beside(name: str, read: Read) -> bytes:
    """Nothing where there is no such file: a model without its colours is still one."""
    try:
        return read(name)
    except (KeyError, OSError):
        return b""


def _assemble(parts: _Parts) -> Triangles:
    if not parts.corners:
        raise ValueError("it holds no face")
    corners = np.array(parts.corners, dtype=np.int64).reshape(-1, 3, 3)  # (F, kind, corner)
    positions = np.array(parts.rows["v"], dtype=np.float64)
    faces = corners[:, 0]
    if faces.min() < 0 or faces.max() >= len(positions) or not np.isfinite(positions).all():
        raise ValueError("a face has a corner that does not exist")
    uv = np.array([*parts.rows["vt"], [0.0, 0.0]], dtype=np.float64)  # row -1 stands for none
    normals = np.array([*parts.rows["vn"], [0.0, 0.0, 0.0]], dtype=np.float64)
    numbers = {name: number for number, name in enumerate(parts.materials_)}
    return Triangles(
        positions=positions,
        faces=faces,
        uv=np.nan_to_num(uv[corners[:, 1]]),
        normals=np.nan_to_num(normals[corners[:, 2]]).sum(axis=1),
        material_ids=np.array([numbers.get(name, 0) for name in parts.materials], dtype=np.int64),
        materials=tuple(parts.materials_.values()),
    )
