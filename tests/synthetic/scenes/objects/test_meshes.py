"""Meshes keep the colours, the size and the form of the triangles that they are made of."""

from __future__ import annotations

import numpy as np
import pytest

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


def sphere(steps: int) -> str:
    """A unit ball of quads, as an OBJ file; its poles are left open a little."""
    lines = []
    for row in range(steps + 1):
        rise = 0.02 + (np.pi - 0.04) * row / steps
        for column in range(2 * steps):
            turn = np.pi * column / steps
            lines.append(f"v {np.sin(rise) * np.cos(turn)} {np.cos(rise)} {np.sin(rise) * np.sin(turn)}")
    for row in range(steps):
        for column in range(2 * steps):
            first, second = (row * 2 * steps + item % (2 * steps) + 1 for item in (column, column + 1))
            lines.append(f"f {first} {second} {second + 2 * steps} {first + 2 * steps}")
    return "\n".join(lines)


def test_a_large_mesh_is_decimated_and_keeps_its_form() -> None:
    pytest.importorskip("fast_simplification")
    triangles = read_obj("a.obj", files(a_obj=sphere(32)))
    mesh = bake(triangles, 800)
    assert len(triangles.corners) == 4096
    assert 400 < len(mesh.faces) <= 900
    assert np.abs(np.linalg.norm(mesh.vertices, axis=1) - 1).max() < 0.05
    assert (np.abs(np.linalg.norm(mesh.normals, axis=1) - 1) < 1e-3).all()
    radial = (mesh.normals * mesh.vertices).sum(axis=1)
    assert np.abs(radial).min() > 0.9  # smooth: normals point along the radius


def test_loose_parts_are_merged_until_they_are_few() -> None:
    pytest.importorskip("fast_simplification")
    corners = np.random.default_rng(0).uniform(-1, 1, (2000, 1, 3)) + 0.02 * np.eye(3)  # leaves without a branch
    lines = [f"v {x} {y} {z}" for x, y, z in corners.reshape(-1, 3)]
    lines += [f"f {row} {row + 1} {row + 2}" for row in range(1, 6000, 3)]
    mesh = bake(read_obj("a.obj", files(a_obj="\n".join(lines))), 400)
    assert 100 < len(mesh.faces) <= 440
    assert np.ptp(mesh.vertices, axis=0) == pytest.approx((2, 2, 2), abs=0.3)
