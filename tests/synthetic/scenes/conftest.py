"""Models, scenes and graphs that several test modules share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest

from synthetic.scenes.layout.camera import Camera
from synthetic.scenes.layout.scene import CORNERS, Light, PlacedObject, Plane, Scene, triple
from synthetic.scenes.objects.bundled import revolved_models
from synthetic.scenes.objects.meshes import bake
from synthetic.scenes.objects.models import ObjectInfo, ObjectLibrary, ObjectModel, find_flat_top
from synthetic.scenes.objects.wavefront import Material, Triangles
from synthetic.scenes.rendering.renderer import RenderedImage, Renderer

collect_ignore_glob = [] if find_spec("pybullet") else ["*/test_*.py"]  # it has no wheel for Python 3.12 and later
QUADS = ((0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3))


def box_model(
    label: str, size: tuple[float, float, float], colour: tuple[float, float, float] = (0.9, 0.9, 0.9)
) -> ObjectModel:
    """A box that stands on the floor."""
    faces = [face for quad in QUADS for face in ((quad[0], quad[1], quad[2]), (quad[0], quad[2], quad[3]))]
    corners = (CORNERS * size)[faces]
    triangles = Triangles(
        corners=corners,
        uv=np.zeros((len(faces), 3, 2)),
        normals=corners.mean(axis=1) - (0, 0, size[2] / 2),
        material_ids=np.zeros(len(faces), dtype=np.int64),
        materials=(Material(colour=colour),),
    )
    mesh = bake(triangles, 100)
    info = ObjectInfo(key=f"test-{label}", label=label, class_name=label, source="test", licence="CC0-1.0", size=size)
    return ObjectModel(replace(info, top=find_flat_top(mesh, (size[2],)) if label == "table" else None), mesh)


@pytest.fixture(scope="session")
def library() -> ObjectLibrary:
    """Surfaces of revolution, a crate, a table, a sign and a cushion."""
    models = revolved_models()
    for model in (
        box_model("crate", (0.2, 0.3, 0.25), (0.5, 0.3, 0.15)),
        box_model("table", (0.6, 0.5, 0.2)),
        box_model("sign", (0.2, 0.05, 0.3)),
        box_model("cushion", (0.3, 0.3, 0.1)),
    ):
        models[model.info.key] = model
    return ObjectLibrary(models)


@pytest.fixture(scope="session")
def renderer(library: ObjectLibrary) -> Iterator[Renderer]:
    """A renderer of the library."""
    with Renderer(library) as opened:
        yield opened


FLOOR = Plane(
    corner=(-4.0, -4.0, 0.0),
    right=(8.0, 0.0, 0.0),
    up=(0.0, 8.0, 0.0),
    surface="floor",
    texture=5,
    tint=(0.8, 0.8, 0.8),
    repeat=1.0,
)


def scene_of(*objects: PlacedObject, camera: Camera | None = None, planes: tuple[Plane, ...] = (FLOOR,)) -> Scene:
    """A scene with a light from above and behind the camera, which looks north."""
    towards = np.array([0.3, -0.5, 0.8])
    return Scene(
        objects=objects,
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


def draw(renderer: Renderer, scene: Scene, side: int) -> RenderedImage:
    """An image of a scene, by its own camera."""
    with renderer.stage(scene) as stage:
        return stage.draw(scene.camera, side)
