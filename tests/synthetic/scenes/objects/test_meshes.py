"""Meshes keep the colours and the size of their triangles."""

from __future__ import annotations

import numpy as np

from synthetic.scenes.objects.meshes import bake, stand_upright
from synthetic.scenes.objects.wavefront import read_obj
from tests.synthetic.scenes.objects.conftest import MTL, OBJ, files, png


def test_a_mesh_has_the_colours_and_the_size_of_the_surface() -> None:
    triangles = read_obj("a.obj", files(a_obj=OBJ, a_mtl=MTL, a_png=png((0, 0, 255))))
    mesh = bake(stand_upright(triangles, (4.0, 1.0, 3.0)), 100)
    assert mesh.size == (4, 0, 3) and np.allclose(np.ptp(mesh.vertices, axis=0), (4, 0, 3))
    assert mesh.vertices[:, 2].min() == 0
    assert np.isclose(mesh.areas.sum(), 12)
    colours, counts = np.unique(mesh.colours(100), axis=0, return_counts=True)
    assert colours.tolist() == [[0, 0, 255], [255, 0, 0]] and counts.tolist() == [50, 50]
    assert np.allclose(mesh.normals, (0, -1, 0))  # the file's front, +z, is turned to the viewer in the south
