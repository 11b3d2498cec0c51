"""Models of objects: a mesh, its names, and the surface that others can stand on; a library of them is one file.

A library is a tar of KEY.json, KEY.npz and KEY.png (the texture). The split of a model is a hash of its key, so that no
model is in two splits.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from perception_encoder.errors import DataError, one_line
from perception_encoder.formats.shards import json_bytes, read_members, write_members
from synthetic.captions import name_colours
from synthetic.scenes.objects.meshes import Mesh

SPLITS = ("train", "val", "test")
SAMPLES = 256  # points of the surface whose colours are compared
COLOUR_SHARE = 0.6  # of the surface: a model that has one colour on this part is called by it
LEVEL, COVERED = 0.985, 0.6  # a flat top: the cosine of its faces' slope, and the part of its rectangle that they fill


@dataclass(frozen=True, kw_only=True)
class FlatTop:
    """A level rectangle of a model that other objects can stand on, in the model's axes, metres."""

    height: float
    x: tuple[float, float]
    y: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class ObjectInfo:
    """Names, size and origin of a model."""

    key: str
    """Unique; letters, digits, `_` and `-`."""
    label: str
    """Lower case, singular."""
    class_name: str
    """What it is counted as: an osaka chair is a chair."""
    tags: tuple[str, ...] = ()
    category: str = ""
    source: str
    creator: str = ""
    licence: str
    size: tuple[float, float, float]
    """Width, depth and height in metres."""
    shape: Literal["box", "sphere"] = "box"
    """Its shape in a simulation."""
    tinted: bool = False
    """Whether it may take any colour, because none is typical of it."""
    top: FlatTop | None = None

    @property
    def split(self) -> str:
        """70 % train, 10 % val, 20 % test, by the SHA-256 of the key."""
        share = int.from_bytes(hashlib.sha256(self.key.encode()).digest()[:4], "big") / 2**32
        return "train" if share < 0.7 else "val" if share < 0.8 else "test"


@dataclass(frozen=True)
class ObjectModel:
    """A model of an object."""

    info: ObjectInfo
    mesh: Mesh

    @cached_property
    def _colours(self) -> dict[tuple[float, float, float], str]:
        return {}

    def colour(self, tint: tuple[float, float, float] = (1, 1, 1)) -> str:
        """Return the name of the colour of most of the surface, or "" if no colour covers most of it."""
        if tint not in self._colours:
            colours = (self.mesh.colours(SAMPLES) * np.array(tint)).astype(np.int32)
            names, counts = np.unique(name_colours(colours), return_counts=True)
            self._colours[tint] = str(names[counts.argmax()]) if counts.max() >= COLOUR_SHARE * SAMPLES else ""
        return self._colours[tint]


def find_flat_top(mesh: Mesh, heights: Iterable[float]) -> FlatTop | None:
    """Find a level surface to stand objects on, at the first of these heights (metres) that has one."""
    slopes = mesh.crosses[:, 2] / np.maximum(2 * mesh.areas, 1e-12)
    corners = mesh.vertices[mesh.faces]  # (F, 3 corners, 3)
    tolerance = max(0.01 * mesh.vertices[:, 2].max(), 0.003)
    for height in heights:
        level = (slopes > LEVEL) & (np.abs(corners[..., 2] - height).max(axis=1) < tolerance)
        if not level.any():
            continue
        flat = corners[level].reshape(-1, 3)
        (x0, y0), (x1, y1) = flat[:, :2].min(axis=0).tolist(), flat[:, :2].max(axis=0).tolist()
        if mesh.areas[level].sum() >= COVERED * (x1 - x0) * (y1 - y0):
            return FlatTop(height=float(flat[:, 2].max()), x=(x0, x1), y=(y0, y1))
    return None


class ObjectLibrary:
    """The models of one or more files; a mesh is read when it is first used."""

    def __init__(self, models: Mapping[str, ObjectModel] | None = None) -> None:
        self._models = dict(models or {})
        self._files: dict[str, dict[str, bytes]] = {}
        self.info: dict[str, ObjectInfo] = {key: model.info for key, model in self._models.items()}

    def __len__(self) -> int:
        return len(self.info)

    def __getitem__(self, key: str) -> ObjectModel:
        if key not in self._models:
            self._models[key] = ObjectModel(self.info[key], _read_mesh(key, self._files[key]))
        return self._models[key]

    def add(self, path: Path) -> None:
        """Add the models of a library's file; DataError if it is not one."""
        try:
            for name, content in read_members(path, ("json", "npz", "png")):
                key, _, extension = name.partition(".")
                self._files.setdefault(key, {})[extension] = content
            for key, parts in self._files.items():
                if key not in self.info:
                    self.info[key] = _read_info(json.loads(parts["json"]))
        except (DataError, ValueError, KeyError, TypeError) as error:
            reason = f"not a library of models ({error}); `python -m synthetic.furniture` makes one"
            raise DataError(f"{path}: {reason}") from error

    def select(self, split: str | None = None) -> list[str]:
        """Return the keys of a split's models, or of all models, in alphabetical order."""
        return sorted(key for key, info in self.info.items() if split in (None, info.split))


def write_library(path: Path, models: Iterable[ObjectModel]) -> int:
    """Write a library; returns its number of models."""

    def members() -> Iterator[tuple[str, bytes]]:
        for model in models:
            arrays, image = io.BytesIO(), io.BytesIO()
            mesh = model.mesh
            np.savez_compressed(
                arrays,
                vertices=mesh.vertices,
                normals=(mesh.normals * 127).round().astype(np.int8),
                uv=(mesh.uv * 65535).round().astype(np.uint16),
                faces=mesh.faces.astype(np.uint16 if len(mesh.vertices) < 2**16 else np.int32),
            )
            Image.fromarray(mesh.texture).save(image, "PNG", optimize=True)
            yield f"{model.info.key}.json", json_bytes(_file_info(model.info))
            yield f"{model.info.key}.npz", arrays.getvalue()
            yield f"{model.info.key}.png", image.getvalue()

    return write_members(path, members()) // 3


def _file_info(info: ObjectInfo) -> dict[str, Any]:
    values = asdict(info)
    return {"kind": values.pop("class_name"), **values}


def _read_info(values: dict[str, Any]) -> ObjectInfo:
    top = values.pop("top")
    flat_top = FlatTop(height=top["height"], x=tuple(top["x"]), y=tuple(top["y"])) if top else None
    values |= {"class_name": values.pop("kind"), "tags": tuple(values["tags"]), "size": tuple(values["size"])}
    return ObjectInfo(**values, top=flat_top)


def _read_mesh(key: str, files: dict[str, bytes]) -> Mesh:
    try:
        with np.load(io.BytesIO(files["npz"])) as arrays, Image.open(io.BytesIO(files["png"])) as image:
            return Mesh(
                vertices=arrays["vertices"],
                normals=arrays["normals"].astype(np.float32) / 127,
                uv=arrays["uv"].astype(np.float32) / 65535,
                faces=arrays["faces"].astype(np.int32),
                texture=np.asarray(image.convert("RGB")),
            )
    except (KeyError, ValueError, OSError) as error:
        raise DataError(f"the model {key} is damaged ({one_line(error)}); make its library anew") from error
