"""The named objects that come with pybullet, as models: a small set that needs nothing to be fetched."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from perception_encoder.errors import ConfigError, MissingExtraError, PerceptionEncoderError
from perception_encoder.scenes.objects.meshes import Mesh, bake, stand
from perception_encoder.scenes.objects.models import About, Model, find_top
from perception_encoder.scenes.objects.wavefront import Material, Triangles, read_obj

BUDGET = 1000  # faces of a mesh
LICENCE = "Zlib"
CREATOR = "Erwin Coumans and the Bullet contributors"


@dataclass(frozen=True, kw_only=True)
class Bundled:
    """One of pybullet's objects."""

    file: str
    """Among the files of pybullet_data."""
    label: str
    longest: float
    """Its longest side in metres."""
    shape: Literal["box", "sphere"] = "box"
    colour: tuple[float, float, float] | None = None
    """In [0, 1], in place of its own; white may be tinted."""
    texture: str | None = None
    """A picture for it, where its own is named by a path of its author's machine."""
    upright: Literal["y", "z"] = "z"
    """The axis of the file that points up."""


WHITE = (0.92, 0.92, 0.92)
OBJECTS: tuple[Bundled, ...] = (
    Bundled(file="duck.obj", label="rubber duck", longest=0.3, upright="y"),
    Bundled(file="soccerball.obj", label="soccer ball", longest=0.3, shape="sphere"),
    Bundled(file="objects/mug.obj", label="mug", longest=0.16, colour=WHITE),
    Bundled(file="teddy2_VHACD_CHs.obj", label="teddy bear", longest=0.35, colour=(0.5, 0.33, 0.19), upright="y"),
    Bundled(file="lego/lego.obj", label="lego brick", longest=0.2, colour=WHITE, upright="y"),
    Bundled(file="domino/domino.obj", label="domino", longest=0.2, texture="domino/domino.jpg"),
    Bundled(file="bunny.obj", label="bunny", longest=0.28, colour=WHITE, upright="y"),
    Bundled(file="cube.obj", label="cube", longest=0.2, colour=WHITE),
    Bundled(file="cube.obj", label="wooden block", longest=0.2, texture="table/table.png"),
    Bundled(file="sphere_smooth.obj", label="ball", longest=0.22, shape="sphere", colour=WHITE),
    Bundled(file="torus/torus_textured.obj", label="ring", longest=0.3, colour=WHITE, upright="y"),
    Bundled(file="tray/tray_textured.obj", label="tray", longest=0.45, colour=WHITE),
)
TURNED: dict[str, tuple[tuple[float, float], ...]] = {
    "cylinder": ((0.0, 0.0), (0.08, 0.0), (0.08, 0.22), (0.0, 0.22)),
    "cone": ((0.0, 0.0), (0.1, 0.0), (0.0, 0.24)),
    "bowl": ((0.0, 0.0), (0.06, 0.0), (0.12, 0.08), (0.11, 0.08), (0.05, 0.01), (0.0, 0.01)),
    "vase": ((0.0, 0.0), (0.05, 0.0), (0.09, 0.1), (0.04, 0.2), (0.06, 0.26), (0.05, 0.26), (0.0, 0.2)),
}
"""Things that are turned about their axis: radius and height along the outline, from the bottom up, in metres."""
STEPS = 24  # around the axis


def missing_pybullet() -> PerceptionEncoderError:
    """What to raise if pybullet is not installed: the extra that has it, or, if it has none, which Python has."""
    if sys.version_info < (3, 12):
        return MissingExtraError("pybullet", "scenes")
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    return ConfigError(f"scenes need pybullet, which has no wheel for Python {version}; use Python 3.11, or build it")


def bundled_models() -> dict[str, Model]:
    """pybullet's objects by key; `missing_pybullet` if it is not installed."""
    try:
        import pybullet_data
    except ImportError as error:
        raise missing_pybullet() from error
    folder = Path(pybullet_data.getDataPath())
    models = [*turned_models().values(), *(read_bundled(bundled, folder) for bundled in OBJECTS)]
    return {model.about.key: model for model in models}


def turned_models() -> dict[str, Model]:
    """Simple white things made by rule, by key; they take any colour."""
    return {model.about.key: model for model in map(_turn, TURNED)}


def _turn(label: str) -> Model:
    outline = np.array(TURNED[label])
    angles = np.arange(STEPS) * 2 * np.pi / STEPS
    x, y = np.outer(np.cos(angles), outline[:, 0]), np.outer(np.sin(angles), outline[:, 0])
    heights = np.broadcast_to(outline[:, 1], x.shape)
    rows = np.arange(x.size).reshape(x.shape)
    here, there = rows, np.roll(rows, -1, axis=0)  # around the axis, counter-clockwise from above
    lower = np.stack([here[:, :-1], there[:, :-1], there[:, 1:]], axis=-1).reshape(-1, 3)
    upper = np.stack([here[:, :-1], there[:, 1:], here[:, 1:]], axis=-1).reshape(-1, 3)
    faces = np.concatenate([lower, upper])
    triangles = Triangles(
        positions=np.stack([x, y, heights], axis=-1).reshape(-1, 3),
        faces=faces,
        uv=np.zeros((len(faces), 3, 2)),
        normals=np.zeros((len(faces), 3)),
        materials=np.zeros(len(faces), dtype=np.int64),
        looks=(Material(colour=WHITE),),
    )
    mesh = bake(triangles, BUDGET)
    return Model(_about(label, mesh, "box", True), mesh)


def _about(label: str, mesh: Mesh, shape: Literal["box", "sphere"], tinted: bool) -> About:
    width, depth, height = (float(side) for side in np.ptp(mesh.vertices, axis=0))
    return About(
        key="pybullet-" + label.replace(" ", "-"),
        label=label,
        kind=label,
        source="pybullet_data",
        creator=CREATOR,
        licence=LICENCE,
        size=(width, depth, height),
        shape=shape,
        tinted=tinted,
        top=find_top(mesh, (height,)),
    )


def read_bundled(bundled: Bundled, folder: Path) -> Model:
    """Read one object from pybullet_data's folder."""
    file = folder / bundled.file
    triangles = read_obj(file.name, lambda name: (file.parent / name).read_bytes())
    if bundled.colour is not None or bundled.texture is not None:
        picture = (folder / bundled.texture).read_bytes() if bundled.texture else None
        look = Material(colour=bundled.colour or WHITE, texture=picture)
        triangles = replace(triangles, looks=(look,) * len(triangles.looks))
    turn = np.eye(3) if bundled.upright == "y" else np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    extent = np.ptp(triangles.positions[np.unique(triangles.faces)] @ turn.T, axis=0)
    width, height, depth = (float(side) for side in extent / extent.max() * bundled.longest)
    mesh = bake(stand(triangles, (width, depth, height), turn), BUDGET)
    return Model(_about(bundled.label, mesh, bundled.shape, bundled.colour == WHITE), mesh)
