"""The named objects that come with pybullet, and a few made by rule: a small set that needs no download."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from perception_encoder.errors import ConfigError, PerceptionEncoderError
from synthetic.errors import MissingGroupError
from synthetic.scenes.objects.meshes import Mesh, bake, stand_upright
from synthetic.scenes.objects.models import ObjectInfo, ObjectModel, find_flat_top
from synthetic.scenes.objects.wavefront import Material, Triangles, read_obj

LICENCE = "Zlib"
CREATOR = "Erwin Coumans and the Bullet contributors"


@dataclass(frozen=True, kw_only=True)
class BundledObject:
    """One of pybullet's objects."""

    file: str
    """Path in pybullet_data."""
    label: str
    longest: float
    """Longest side in metres."""
    shape: Literal["box", "sphere"] = "box"
    colour: tuple[float, float, float] | None = None
    """In [0, 1], instead of the file's colours; white objects may be tinted."""
    texture: str | None = None
    """Image file, if the object's own texture is given by a path on its author's machine."""
    upright: Literal["y", "z"] = "z"
    """Axis of the file that points up."""


WHITE = (0.92, 0.92, 0.92)
OBJECTS: tuple[BundledObject, ...] = (
    BundledObject(file="duck.obj", label="rubber duck", longest=0.3, upright="y"),
    BundledObject(file="soccerball.obj", label="soccer ball", longest=0.3, shape="sphere"),
    BundledObject(file="objects/mug.obj", label="mug", longest=0.16, colour=WHITE),
    BundledObject(file="teddy2_VHACD_CHs.obj", label="teddy bear", longest=0.35, colour=(0.5, 0.33, 0.19), upright="y"),
    BundledObject(file="lego/lego.obj", label="lego brick", longest=0.2, colour=WHITE, upright="y"),
    BundledObject(file="domino/domino.obj", label="domino", longest=0.2, texture="domino/domino.jpg"),
    BundledObject(file="bunny.obj", label="bunny", longest=0.28, colour=WHITE, upright="y"),
    BundledObject(file="cube.obj", label="cube", longest=0.2, colour=WHITE),
    BundledObject(file="cube.obj", label="wooden block", longest=0.2, texture="table/table.png"),
    BundledObject(file="sphere_smooth.obj", label="ball", longest=0.22, shape="sphere", colour=WHITE),
    BundledObject(file="torus/torus_textured.obj", label="ring", longest=0.3, colour=WHITE, upright="y"),
    BundledObject(file="tray/tray_textured.obj", label="tray", longest=0.45, colour=WHITE),
)
REVOLVED: dict[str, tuple[tuple[float, float], ...]] = {
    "cylinder": ((0.0, 0.0), (0.08, 0.0), (0.08, 0.22), (0.0, 0.22)),
    "cone": ((0.0, 0.0), (0.1, 0.0), (0.0, 0.24)),
    "bowl": ((0.0, 0.0), (0.06, 0.0), (0.12, 0.08), (0.11, 0.08), (0.05, 0.01), (0.0, 0.01)),
    "vase": ((0.0, 0.0), (0.05, 0.0), (0.09, 0.1), (0.04, 0.2), (0.06, 0.26), (0.05, 0.26), (0.0, 0.2)),
}
"""Surfaces of revolution: radius and height along the outline, from the bottom up, in metres."""
STEPS = 24  # around the axis


def missing_pybullet() -> PerceptionEncoderError:
    """Return the error of a missing pybullet: it names the dependency group, or a Python that has a wheel."""
    if sys.version_info < (3, 12):
        return MissingGroupError("pybullet")
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    return ConfigError(f"scenes need pybullet, which has no wheel for Python {version}; use Python 3.11, or build it")


def bundled_models() -> dict[str, ObjectModel]:
    """Return pybullet's objects and the surfaces of revolution by key; `missing_pybullet` if it is not installed."""
    try:
        import pybullet_data
    except ImportError as error:
        raise missing_pybullet() from error
    directory = Path(pybullet_data.getDataPath())
    models = (_read_bundled(bundled, directory) for bundled in OBJECTS)
    return {**revolved_models(), **{model.info.key: model for model in models}}


def _read_bundled(bundled: BundledObject, directory: Path) -> ObjectModel:
    file = directory / bundled.file
    triangles = read_obj(file.name, lambda name: (file.parent / name).read_bytes())
    if bundled.colour is not None or bundled.texture is not None:
        texture = Image.open(directory / bundled.texture) if bundled.texture else None
        material = Material(colour=bundled.colour or WHITE, texture=texture)
        triangles = replace(triangles, materials=(material,) * len(triangles.materials))
    turn = np.eye(3) if bundled.upright == "y" else np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    extent = np.ptp(triangles.corners @ turn.T, axis=(0, 1))
    width, height, depth = (float(side) for side in extent / extent.max() * bundled.longest)
    mesh = bake(stand_upright(triangles, (width, depth, height), turn))
    return _make_model(bundled.label, mesh, bundled.shape, bundled.colour == WHITE)


def revolved_models() -> dict[str, ObjectModel]:
    """Return the white surfaces of revolution by key; they may be tinted."""
    return {model.info.key: model for model in map(_revolve, REVOLVED)}


def _revolve(label: str) -> ObjectModel:
    outline = np.array(REVOLVED[label])
    angles = np.arange(STEPS) * 2 * np.pi / STEPS
    x, y = np.outer(np.cos(angles), outline[:, 0]), np.outer(np.sin(angles), outline[:, 0])
    heights = np.broadcast_to(outline[:, 1], x.shape)
    here = np.arange(x.size).reshape(x.shape)
    there = np.roll(here, -1, axis=0)  # the next step around the axis, counter-clockwise from above
    lower = np.stack([here[:, :-1], there[:, :-1], there[:, 1:]], axis=-1).reshape(-1, 3)
    upper = np.stack([here[:, :-1], there[:, 1:], here[:, 1:]], axis=-1).reshape(-1, 3)
    faces = np.concatenate([lower, upper])
    triangles = Triangles(
        corners=np.stack([x, y, heights], axis=-1).reshape(-1, 3)[faces],
        uv=np.zeros((len(faces), 3, 2)),
        normals=np.zeros((len(faces), 3)),
        material_ids=np.zeros(len(faces), dtype=np.int64),
        materials=(Material(colour=WHITE),),
    )
    return _make_model(label, bake(triangles), "box", True)


def _make_model(label: str, mesh: Mesh, shape: Literal["box", "sphere"], tinted: bool) -> ObjectModel:
    info = ObjectInfo(
        key="pybullet-" + label.replace(" ", "-"),
        label=label,
        class_name=label,
        source="pybullet_data",
        creator=CREATOR,
        licence=LICENCE,
        size=mesh.size,
        shape=shape,
        tinted=tinted,
        top=find_flat_top(mesh, mesh.size[2:]),
    )
    return ObjectModel(info, mesh)
