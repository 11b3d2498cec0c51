"""Read Wavefront OBJ files with their MTL files, by trimesh: triangles, texture coordinates and materials."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from perception_encoder.errors import MediaDecodeError, one_line
from synthetic.errors import MissingGroupError

OpenFile = Callable[[str], bytes]
"""Returns the content of a file beside the OBJ file; KeyError or OSError if it does not exist."""


@dataclass(frozen=True, kw_only=True)
class Material:
    """Colour or texture of a part of a surface."""

    colour: tuple[float, float, float] = (0.8, 0.8, 0.8)
    """Red, green and blue in [0, 1], if it has no texture."""
    texture: Image.Image | None = None


@dataclass(frozen=True, kw_only=True)
class Triangles:
    """A surface as separate triangles."""

    corners: np.ndarray
    """(F, 3, 3) float64: position of each corner."""
    uv: np.ndarray
    """(F, 3, 2) texture coordinates of each corner; 0 if the file has none."""
    normals: np.ndarray
    """(F, 3) a vector to the outer side; 0 if the file has none."""
    material_ids: np.ndarray
    """(F,) index of each face's material."""
    materials: tuple[Material, ...]


def read_obj(name: str, read: OpenFile) -> Triangles:
    """Read an OBJ file through `read`; MediaDecodeError if it is damaged or has no faces."""
    try:
        from trimesh.exchange.obj import load_obj
    except ImportError as error:
        raise MissingGroupError("trimesh") from error
    resolver: Any = _Resolver(read)
    try:
        parts = load_obj(io.BytesIO(read(name)), resolver=resolver, group_material=False).get("geometry")
        return _join(list(parts.values())[::-1] if parts else [])  # trimesh returns the last part first
    except (ValueError, IndexError, KeyError, OSError) as error:
        raise MediaDecodeError(name, f"not a readable OBJ file ({one_line(error)})") from error


class _Resolver:
    """Finds the files that an OBJ or MTL file names, for trimesh."""

    def __init__(self, read: OpenFile) -> None:
        self._read = read

    def get(self, name: str) -> bytes:
        """Return a file's content; its name may follow options, or have backslashes."""
        name = name.replace("\\", "/")
        try:
            return self._read(name)
        except (KeyError, OSError):
            return self._read(name.rsplit(maxsplit=1)[-1])

    __getitem__ = get


def _join(parts: Sequence[dict[str, Any]]) -> Triangles:
    """Join the parts of a surface, each of which has one material."""
    materials: dict[int, Any] = {}
    corners, uv, normals, material_ids = [], [], [], []
    for part in parts:
        fan = [(0, second, second + 1) for second in range(1, part["faces"].shape[1] - 1)]
        faces, vertices, visual = part["faces"][:, fan].reshape(-1, 3), part["vertices"], part["visual"]
        material = getattr(visual, "material", None)
        materials.setdefault(id(material), material)
        part_uv, given_uv = np.zeros((len(vertices), 2)), getattr(visual, "uv", None)
        if given_uv is not None:
            part_uv[:, : given_uv.shape[1]] = given_uv[:, :2]  # the file may have one to three coordinates
        corners.append(vertices[faces])
        uv.append(part_uv[faces])
        normals.append(part.get("vertex_normals", np.zeros_like(vertices))[faces].sum(axis=1))
        material_ids.append(np.full(len(faces), list(materials).index(id(material))))
    positions = np.concatenate(corners).astype(np.float64)
    if positions.size == 0 or positions.shape[-1] != 3 or not np.isfinite(positions).all():
        raise ValueError("no faces, or a position without three numbers")
    return Triangles(
        corners=positions,
        uv=np.nan_to_num(np.concatenate(uv)),
        normals=np.nan_to_num(np.concatenate(normals)),
        material_ids=np.concatenate(material_ids),
        materials=tuple(map(_convert, materials.values())),
    )


def _convert(material: Any) -> Material:
    if material is None:
        return Material()
    red, green, blue = np.broadcast_to(material.kwargs.get("kd", Material.colour), 3).tolist()
    return Material(colour=(red, green, blue), texture=material.image)
