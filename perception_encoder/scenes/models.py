"""Models that scenes are made of: a mesh, what it is called, and what can stand on it; a library of them is a file.

A library is a tar of KEY.json, KEY.npz and KEY.png (the texture). Each model belongs to one split for good, by a hash
of its name, so that what a model was trained on is never among what it is tested on.
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

from perception_encoder.data.captions import name_colours
from perception_encoder.errors import DataError
from perception_encoder.formats.shards import json_bytes, read_members, write_members
from perception_encoder.scenes.meshes import Mesh

SPLITS = ("train", "val", "test")
SAMPLES = 256  # places of the surface whose colours are looked at
COLOUR_SHARE = 0.6  # of the surface, for it to be called by its colour
FLAT, COVERED = 0.985, 0.6  # to stand on: how upright a surface's faces are, and the part of its rectangle they fill


@dataclass(frozen=True, kw_only=True)
class Surface:
    """A level rectangle of a model that other things can stand on, in the model's own axes, metres."""

    height: float
    x: tuple[float, float]
    y: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class About:
    """What is known of a model."""

    key: str
    """Unique; letters, digits, `_` and `-`."""
    label: str
    """What it is called: lower case, singular."""
    kind: str
    """What it is counted as: an osaka chair is a chair."""
    tags: tuple[str, ...] = ()
    category: str = ""
    source: str
    creator: str = ""
    licence: str
    size: tuple[float, float, float]
    """Width, depth and height in metres."""
    shape: Literal["box", "sphere"] = "box"
    """What it is in a simulation."""
    tinted: bool = False
    """Whether it may take any colour: it has none of its own that belongs to it."""
    top: Surface | None = None
    """What can be stood on, if anything."""

    @property
    def split(self) -> str:
        """70 % train, 10 % val, 20 % test, by the SHA-256 of the key."""
        place = int.from_bytes(hashlib.sha256(self.key.encode()).digest()[:4], "big") / 2**32
        return "train" if place < 0.7 else "val" if place < 0.8 else "test"


@dataclass(frozen=True)
class Model:
    """A model: what is known of it, and its mesh."""

    about: About
    mesh: Mesh

    @cached_property
    def size(self) -> np.ndarray:
        """Width, depth and height in metres (3,)."""
        return np.array(self.about.size)

    @cached_property
    def sampled_colours(self) -> np.ndarray:
        """Colours of places spread evenly over its surface, (SAMPLES, 3) uint8."""
        return self.mesh.colours(SAMPLES)

    @cached_property
    def _named(self) -> dict[tuple[float, float, float], str]:
        return {}

    def colour(self, tint: tuple[float, float, float] = (1, 1, 1)) -> str:
        """The name of the colour of most of its surface, empty where none covers most."""
        if tint not in self._named:
            self._named[tint] = self._name_colour(tint)
        return self._named[tint]

    def _name_colour(self, tint: tuple[float, float, float]) -> str:
        seen = (self.sampled_colours * np.array(tint)).astype(np.int32)
        names, counts = np.unique(name_colours(seen), return_counts=True)
        return str(names[counts.argmax()]) if counts.max() >= COLOUR_SHARE * SAMPLES else ""


def find_top(mesh: Mesh, heights: Iterable[float]) -> Surface | None:
    """Find a level surface to stand things on, at the first of these heights (metres) that has one."""
    upright = mesh.crosses[:, 2] / np.maximum(2 * mesh.areas, 1e-12)
    corners = mesh.vertices[mesh.faces]  # (F, 3 corners, 3)
    tolerance = max(0.01 * mesh.vertices[:, 2].max(), 0.003)
    for height in heights:
        level = (upright > FLAT) & (np.abs(corners[..., 2] - height).max(axis=1) < tolerance)
        if not level.any():
            continue
        flat = corners[level].reshape(-1, 3)
        (x0, y0), (x1, y1) = flat[:, :2].min(axis=0).tolist(), flat[:, :2].max(axis=0).tolist()
        if mesh.areas[level].sum() >= COVERED * (x1 - x0) * (y1 - y0):
            return Surface(height=float(flat[:, 2].max()), x=(x0, x1), y=(y0, y1))
    return None


def write_library(path: Path, models: Iterable[Model]) -> int:
    """Write a library; returns how many models it holds."""
    count = 0

    def members() -> Iterator[tuple[str, bytes]]:
        nonlocal count
        for model in models:
            arrays, picture = io.BytesIO(), io.BytesIO()
            mesh = model.mesh
            np.savez_compressed(
                arrays,
                vertices=mesh.vertices,
                normals=(mesh.normals * 127).round().astype(np.int8),
                uv=(mesh.uv * 65535).round().astype(np.uint16),
                faces=mesh.faces.astype(np.uint16 if len(mesh.vertices) < 2**16 else np.int32),
            )
            Image.fromarray(mesh.texture).save(picture, "PNG", optimize=True)
            yield f"{model.about.key}.json", json_bytes(asdict(model.about))
            yield f"{model.about.key}.npz", arrays.getvalue()
            yield f"{model.about.key}.png", picture.getvalue()
            count += 1

    write_members(path, members())
    return count


class Library:
    """The models of one or more files; their meshes are read when asked for."""

    def __init__(self, models: Mapping[str, Model] | None = None) -> None:
        self._made = dict(models or {})
        self._stored: dict[str, dict[str, bytes]] = {}
        self.about: dict[str, About] = {key: model.about for key, model in self._made.items()}

    def __len__(self) -> int:
        return len(self.about)

    def __getitem__(self, key: str) -> Model:
        if key not in self._made:
            self._made[key] = Model(self.about[key], _read_mesh(key, self._stored[key]))
        return self._made[key]

    def add(self, path: Path) -> None:
        """Add a file's models; DataError where it is no library."""
        try:
            for name, content in read_members(path, ("json", "npz", "png")):
                key, _, extension = name.partition(".")
                self._stored.setdefault(key, {})[extension] = content
            for key, parts in self._stored.items():
                if key not in self.about:
                    self.about[key] = _read_about(json.loads(parts["json"]))
        except (DataError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: not a library of models ({error}); `pe data prepare scenes` makes one") from error

    def select(self, split: str | None = None) -> list[str]:
        """The keys of a split's models, or of all, in alphabetical order."""
        return sorted(key for key, about in self.about.items() if split in (None, about.split))


def _read_about(values: dict[str, Any]) -> About:
    top = values.pop("top")
    surface = Surface(height=top["height"], x=tuple(top["x"]), y=tuple(top["y"])) if top else None
    return About(**{**values, "tags": tuple(values["tags"]), "size": tuple(values["size"])}, top=surface)


def _read_mesh(key: str, parts: dict[str, bytes]) -> Mesh:
    try:
        with np.load(io.BytesIO(parts["npz"])) as arrays, Image.open(io.BytesIO(parts["png"])) as picture:
            return Mesh(
                vertices=arrays["vertices"],
                normals=arrays["normals"].astype(np.float32) / 127,
                uv=arrays["uv"].astype(np.float32) / 65535,
                faces=arrays["faces"].astype(np.int32),
                texture=np.asarray(picture.convert("RGB")),
            )
    except (KeyError, ValueError, OSError) as error:
        raise DataError(f"the model {key} is damaged ({error}); make its library anew") from error
