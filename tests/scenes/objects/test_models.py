"""Meshes, models, names, splits, and the library made of the furniture's archives."""

from __future__ import annotations

import io
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perception_encoder.errors import DataError, MediaDecodeError
from perception_encoder.scenes.objects.furniture import CATALOGUE, build_library
from perception_encoder.scenes.objects.meshes import bake, stand
from perception_encoder.scenes.objects.models import SPLITS, Library, Model, find_top, write_library
from perception_encoder.scenes.objects.names import family_of, kind_of, label_of, plural_of
from perception_encoder.scenes.objects.wavefront import read_obj

OBJ = """mtllib a.mtl
v 0 0 0
v 2 0 0
v 2 1 0
v 0 1 0
vt 0 0
vt 1 0
vt 1 1
vt 0 1
vn 0 0 1
usemtl plain
f 1/1/1 2/2/1 3/3/1
usemtl pictured
f -4/-4/1 -2/-2/1 -1/-1/1
"""
MTL = "newmtl plain\nKd 1 0 0\nnewmtl pictured\nKd 0 0 0\nmap_Kd -s 1 1 1 a.png\n"


def png(colour: tuple[int, ...], mode: str = "RGB") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, (8, 8), colour).save(stream, "PNG")
    return stream.getvalue()


def files(**contents: bytes | str):
    def read(name: str) -> bytes:
        content = contents[name.replace(".", "_")]
        return content.encode() if isinstance(content, str) else content

    return read


def test_an_obj_with_materials_is_read() -> None:
    found = read_obj("a.obj", files(a_obj=OBJ, a_mtl=MTL, a_png=png((0, 0, 255))))
    assert found.faces.tolist() == [[0, 1, 2], [0, 2, 3]]
    assert found.uv[1].tolist() == [[0, 0], [1, 1], [0, 1]]
    assert [found.looks[number].colour for number in found.materials] == [(1.0, 0.0, 0.0), (0.0, 0.0, 0.0)]
    assert found.looks[2].texture == png((0, 0, 255))
    assert (found.normals[:, 2] > 0).all()


def test_polygons_become_fans_and_a_missing_mtl_is_no_matter() -> None:
    text = "mtllib gone.mtl\nv 0 0 0\nv 1 0 0\nv 2 1 0\nv 1 2 0\nv 0 1 0\nf 1 2 3 4 5\n"
    found = read_obj("a.obj", files(a_obj=text))
    assert found.faces.tolist() == [[0, 1, 2], [0, 2, 3], [0, 3, 4]]


@pytest.mark.parametrize("text", ["", "v 0 0 0\n", "v 0 0 0\nf 1 2 3\n", "v 0 0\nv 1 1 1\nf 1 1 1\n", "v a b c\n"])
def test_what_is_no_mesh_is_an_error_that_names_the_file(text: str) -> None:
    with pytest.raises(MediaDecodeError, match=r"a\.obj: not a readable OBJ"):
        read_obj("a.obj", files(a_obj=text))


def test_a_baked_mesh_has_the_colours_and_the_size_of_the_surface() -> None:
    triangles = read_obj("a.obj", files(a_obj=OBJ, a_mtl=MTL, a_png=png((0, 0, 255))))
    mesh = bake(stand(triangles, (4.0, 1.0, 3.0)), 100)
    assert np.allclose(np.ptp(mesh.vertices, axis=0), (4, 0, 3))
    assert mesh.vertices[:, 2].min() == 0
    assert np.isclose(mesh.areas.sum(), 12)
    colours, counts = np.unique(mesh.colours(100), axis=0, return_counts=True)
    assert colours.tolist() == [[0, 0, 255], [255, 0, 0]] and counts.tolist() == [50, 50]
    assert np.allclose(mesh.normals, (0, -1, 0))  # the file's front, +z, is turned to the viewer in the south


def test_what_a_texture_hides_takes_the_colour_of_what_it_shows() -> None:
    triangles = read_obj("a.obj", files(a_obj=OBJ, a_mtl=MTL, a_png=png((0, 200, 0, 255), "RGBA")))
    assert [0, 200, 0] in bake(triangles, 100).texture.reshape(-1, 3).tolist()


def sphere(steps: int) -> str:
    """A unit ball of quads, as an OBJ; its poles are left open a little."""
    lines = []
    for row in range(steps + 1):
        rise = 0.02 + (np.pi - 0.04) * row / steps
        for column in range(2 * steps):
            turn = np.pi * column / steps
            lines.append(f"v {np.sin(rise) * np.cos(turn)} {np.cos(rise)} {np.sin(rise) * np.sin(turn)}")
    for row in range(steps):
        for column in range(2 * steps):
            after = (column + 1) % (2 * steps)
            corners = [row * 2 * steps + column, row * 2 * steps + after]
            lines.append(
                "f " + " ".join(str(c + 1) for c in (*corners, corners[1] + 2 * steps, corners[0] + 2 * steps))
            )
    return "\n".join(lines)


def test_a_large_mesh_is_made_light_and_keeps_its_form() -> None:
    pytest.importorskip("fast_simplification")
    triangles = read_obj("a.obj", files(a_obj=sphere(32)))
    mesh = bake(triangles, 800)
    assert len(triangles.faces) == 4096
    assert 400 < len(mesh.faces) <= 900
    assert np.abs(np.linalg.norm(mesh.vertices, axis=1) - 1).max() < 0.05
    assert (np.abs(np.linalg.norm(mesh.normals, axis=1) - 1) < 1e-3).all()
    radial = (mesh.normals * mesh.vertices).sum(axis=1)
    assert np.abs(radial).min() > 0.9  # smooth: normals point along the radius


def test_loose_parts_are_united_until_they_are_few() -> None:
    pytest.importorskip("fast_simplification")
    corners = np.random.default_rng(0).uniform(-1, 1, (2000, 1, 3)) + 0.02 * np.eye(3)  # leaves that hang on nothing
    lines = [f"v {x} {y} {z}" for x, y, z in corners.reshape(-1, 3)]
    lines += [f"f {row} {row + 1} {row + 2}" for row in range(1, 6000, 3)]
    mesh = bake(read_obj("a.obj", files(a_obj="\n".join(lines))), 400)
    assert 100 < len(mesh.faces) <= 440
    assert np.ptp(mesh.vertices, axis=0) == pytest.approx((2, 2, 2), abs=0.3)


def test_a_level_top_is_found_and_a_point_has_none(library: Library) -> None:
    top = library["test-table"].about.top
    assert top is not None and top.height == pytest.approx(0.2)
    assert top.x == pytest.approx((-0.3, 0.3)) and top.y == pytest.approx((-0.25, 0.25))
    assert library["pybullet-cone"].about.top is None
    assert find_top(library["test-table"].mesh, (0.1,)) is None  # nothing level in the middle


def test_a_library_is_what_was_written(library: Library, tmp_path: Path) -> None:
    path = tmp_path / "models.tar"
    assert write_library(path, [library[key] for key in library.select()]) == len(library)
    again = Library()
    again.add(path)
    assert again.about == library.about
    for key in library.select():
        old, new = library[key].mesh, again[key].mesh
        assert np.array_equal(old.vertices, new.vertices) and np.array_equal(old.faces, new.faces)
        assert np.array_equal(old.texture, new.texture)
        assert np.abs(old.normals - new.normals).max() < 0.005 and np.abs(old.uv - new.uv).max() < 1e-4
    second = tmp_path / "again.tar"
    write_library(second, [library[key] for key in library.select()])
    assert second.read_bytes() == path.read_bytes()


def test_what_is_no_library_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "models.tar"
    path.write_bytes(b"no tar")
    with pytest.raises(DataError, match="pe data prepare scenes"):
        Library().add(path)
    with pytest.raises(DataError, match="pe data prepare scenes"):
        Library().add(tmp_path / "gone.tar")


def test_each_model_is_in_one_split_for_good(library: Library) -> None:
    parts = [set(library.select(split)) for split in SPLITS]
    assert set().union(*parts) == set(library.select()) and sum(map(len, parts)) == len(library)
    about = library.about["pybullet-cone"]
    shares = dict.fromkeys(SPLITS, 0)
    for number in range(2000):
        shares[replace(about, key=f"k{number}").split] += 1
    assert 1300 < shares["train"] < 1500 and 150 < shares["val"] < 260 and 320 < shares["test"] < 480
    # these never change: a model must not move from one split to another
    assert [library.about[f"pybullet-{name}"].split for name in ("cone", "cylinder", "vase")] == [
        "test",
        "train",
        "train",
    ]


def test_colours_are_named_and_tinted(library: Library) -> None:
    vase = library["pybullet-vase"]
    assert vase.colour() == "white"
    assert [vase.colour(tint) for tint in ((0.9, 0.1, 0.1), (0.15, 0.3, 0.85))] == ["red", "blue"]
    assert Model(vase.about, vase.mesh).sampled_colours.shape == (256, 3)


def test_names_are_plain_nouns() -> None:
    names = ("Apple iMac 2004", "Female", "Oak chair", "TV 16:9", "Sofa 3 seats", "Concept Sedan 02 Sport", "Shelves")
    assert [label_of(name) for name in names] == ["computer", "woman", "oak chair", "tv", "sofa", "car", "shelf"]
    assert [kind_of(name) for name in ("Oak chair", "Bulldog", "Pool table")] == ["chair", "dog", "pool table"]
    plurals = [plural_of(noun) for noun in ("chair", "box", "knife", "pair of slippers", "cherry", "snowman", "toy")]
    assert plurals == ["chairs", "boxes", "knives", "pairs of slippers", "cherries", "snowmen", "toys"]
    assert family_of("armchair") == family_of("stool") == "chair" and family_of("duck") == "duck"


def archive(path: Path, entries: list[dict[str, str]], contents: dict[str, bytes]) -> None:
    text = "".join(
        f"{key}#{number}={value}\n" for number, entry in enumerate(entries, 1) for key, value in entry.items()
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as made:
        made.writestr(CATALOGUE, text)
        for name, content in contents.items():
            made.writestr(name, content)


def test_furniture_is_made_into_a_library(tmp_path: Path) -> None:
    common = {"category": "Living room", "doorOrWindow": "false", "width": "200", "depth": "50", "height": "100"}
    entries = [
        {"id": "Scopia#a", "name": "Oak table", "tags": "Desk, Wood", "model": "/a/a.obj", "creator": "Eva", **common},
        {"id": "Scopia#b", "name": "Broken chair", "model": "/b/b.obj", **common},
        {"id": "Scopia#c", "name": "Window", "model": "/a/a.obj", **common, "doorOrWindow": "true"},
        {"id": "Scopia#d", "name": "Clock", "model": "/a/a.obj", **common, "elevation": "150"},
        {"id": "Scopia#e", "name": "Parking slot", "model": "/a/a.obj", **common},
        {"id": "Scopia#f", "name": "Palace", "model": "/a/a.obj", **common, "width": "9000"},
    ]
    contents = {"a/a.obj": OBJ.encode(), "a/a.mtl": MTL.encode(), "a/a.png": png((9, 9, 9)), "b/b.obj": b"v"}
    folder = tmp_path / "usr" / "share" / "sweethome3d" / "furniture"
    archive(folder / "KatorLegaz.sh3f", entries, contents)
    made = build_library(tmp_path, tmp_path / "out.tar", jobs=1)
    assert made.models == 1 and [failure.source for failure in made.failures] == ["b/b.obj"]
    library = Library()
    library.add(made.path)
    (about,) = library.about.values()
    assert (about.key, about.label, about.kind) == ("sh3d-Scopia-a", "oak table", "table")
    assert (about.creator, about.licence, about.tags) == ("Eva", "CC-BY-3.0-US", ("desk", "wood"))
    assert about.size == pytest.approx((2.0, 0.0, 1.0))


def test_a_package_without_archives_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="sweethome3d-furniture"):
        build_library(tmp_path, tmp_path / "out.tar", jobs=1)
    folder = tmp_path / "usr" / "share" / "sweethome3d" / "furniture"
    folder.mkdir(parents=True)
    (folder / "Scopia.sh3f").write_bytes(b"no zip")
    with pytest.raises(DataError, match=r"Scopia\.sh3f"):
        build_library(tmp_path, tmp_path / "out.tar", jobs=1)
