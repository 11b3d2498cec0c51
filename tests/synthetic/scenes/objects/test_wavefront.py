"""OBJ files become triangles with materials; damaged ones raise an error that names the file."""

from __future__ import annotations

import numpy as np
import pytest

from perception_encoder.errors import MediaDecodeError
from synthetic.scenes.objects.wavefront import read_obj
from tests.synthetic.scenes.objects.conftest import MTL, OBJ, files, png


def test_an_obj_with_materials_is_read() -> None:
    triangles = read_obj("a.obj", files(a_obj=OBJ, a_mtl=MTL, a_png=png((0, 0, 255))))
    corners = np.array([(0, 0, 0), (2, 0, 0), (2, 1, 0), (0, 1, 0)])
    assert np.array_equal(triangles.corners, corners[[[0, 1, 2], [0, 2, 3]]])
    assert triangles.uv[1].tolist() == [[0, 0], [1, 1], [0, 1]]
    assert [triangles.materials[index].colour for index in triangles.material_ids] == [(1.0, 0.0, 0.0), (0.0, 0.0, 0.0)]
    plain, textured = (triangles.materials[index].texture for index in triangles.material_ids)
    assert plain is None and textured is not None and textured.getpixel((0, 0)) == (0, 0, 255)
    assert (triangles.normals[:, 2] > 0).all()


@pytest.mark.parametrize("more", ["", "f 1 2 3\n"], ids=["one length", "two lengths"])
def test_polygons_become_fans_and_a_missing_mtl_is_allowed(more: str) -> None:
    text = "mtllib gone.mtl\nv 0 0 0\nv 1 0 0\nv 2 1 0\nv 1 2 0\nv 0 1 0\nf 1 2 3 4 5\n" + more
    triangles = read_obj("a.obj", files(a_obj=text))
    points = np.array([(0, 0, 0), (1, 0, 0), (2, 1, 0), (1, 2, 0), (0, 1, 0)])
    assert np.array_equal(triangles.corners[:3], points[[[0, 1, 2], [0, 2, 3], [0, 3, 4]]])
    assert [material.colour for material in triangles.materials] == [(0.8, 0.8, 0.8)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "v 0 0 0\n",
        "v 0 0 0\nf 1 2 3\n",
        "v 0 0\nv 1 1 1\nf 1 1 1\n",
        "v a b c\n",
        "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2\n",
        "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 x\n",
        "v 0 0 0\nv 1 0 0\nv 0 nan 0\nf 1 2 3\n",
    ],
)
def test_a_damaged_file_is_an_error_that_names_it(text: str) -> None:
    with pytest.raises(MediaDecodeError, match=r"a\.obj: not a readable OBJ"):
        read_obj("a.obj", files(a_obj=text))
