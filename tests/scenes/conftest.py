"""Small models and scenes that several test modules share."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest

from perception_encoder.scenes.layout.camera import Camera
from perception_encoder.scenes.layout.scene import CORNERS, Light, Plane, Scene, Thing, triple
from perception_encoder.scenes.objects.bundled import turned_models
from perception_encoder.scenes.objects.meshes import bake
from perception_encoder.scenes.objects.models import About, Library, Model, find_top
from perception_encoder.scenes.objects.wavefront import Material, Triangles

collect_ignore_glob = [] if find_spec("pybullet") else ["*/test_*.py"]  # it has no wheel for Python 3.12 and later
QUADS = ((0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3))


def box_model(
    label: str, size: tuple[float, float, float], colour: tuple[float, float, float] = (0.9, 0.9, 0.9)
) -> Model:
    """A box that stands on the floor."""
    faces = np.array([face for quad in QUADS for face in ((quad[0], quad[1], quad[2]), (quad[0], quad[2], quad[3]))])
    positions = CORNERS * size
    triangles = Triangles(
        positions=positions,
        faces=faces,
        uv=np.zeros((len(faces), 3, 2)),
        normals=positions[faces].mean(axis=1) - (0, 0, size[2] / 2),
        materials=np.zeros(len(faces), dtype=np.int64),
        looks=(Material(colour=colour),),
    )
    mesh = bake(triangles, 100)
    about = About(key=f"test-{label}", label=label, kind=label, source="test", licence="CC0-1.0", size=size)
    return Model(replace(about, top=find_top(mesh, (size[2],)) if label == "table" else None), mesh)


@pytest.fixture(scope="session")
def library() -> Library:
    """Turned things, a crate and a table."""
    models = turned_models()
    for model in (
        box_model("crate", (0.2, 0.3, 0.25), (0.5, 0.3, 0.15)),
        box_model("table", (0.6, 0.5, 0.2)),
        box_model("sign", (0.2, 0.05, 0.3)),
        box_model("cushion", (0.3, 0.3, 0.1)),
    ):
        models[model.about.key] = model
    return Library(models)


FLOOR = Plane(
    corner=(-4.0, -4.0, 0.0),
    right=(8.0, 0.0, 0.0),
    up=(0.0, 8.0, 0.0),
    texture=5,
    tint=(0.8, 0.8, 0.8),
    repeat=1.0,
    kind="floor",
)


def scene_of(*things: Thing, camera: Camera | None = None, planes: tuple[Plane, ...] = (FLOOR,)) -> Scene:
    """A scene with a light from above and behind the camera, which looks north."""
    towards = np.array([0.3, -0.5, 0.8])
    return Scene(
        things=things,
        planes=planes,
        light=Light(
            towards=triple(towards / np.linalg.norm(towards)),
            colour=(1.0, 1.0, 1.0),
            ambient=0.5,
            diffuse=0.5,
            shade=0.4,
        ),
        camera=camera or Camera((0.0, -2.0, 1.0), (0.0, 0.0, 0.1), 45, near=0.1, far=20),
        sky=((100, 150, 200), (200, 220, 240)),
        floor="carpet",
        radius=1.0,
    )
