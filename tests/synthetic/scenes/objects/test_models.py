"""Models have a split, a colour and a flat top; a library is read as it was written."""

from __future__ import annotations

import json
import sys
import tarfile
import zipfile
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from perception_encoder.errors import ConfigError, DataError
from perception_encoder.formats.shards import write_members
from synthetic.scenes.layout.sampling import LayoutConfig, SceneSampler
from synthetic.scenes.objects.bundled import OBJECTS, REVOLVED, bundled_models, revolved_models
from synthetic.scenes.objects.furniture import CATALOGUE, build_library
from synthetic.scenes.objects.models import (
    SPLITS,
    ObjectLibrary,
    find_flat_top,
    write_library,
)
from synthetic.scenes.objects.names import EXCLUDED, class_of, family_of, label_of, plural_of
from tests.synthetic.scenes.objects.conftest import MTL, OBJ, png


def test_a_level_top_is_found_and_a_point_has_none(library: ObjectLibrary) -> None:
    top = library["test-table"].info.top
    assert top is not None and top.height == pytest.approx(0.2)
    assert top.x == pytest.approx((-0.3, 0.3)) and top.y == pytest.approx((-0.25, 0.25))
    assert library["pybullet-cone"].info.top is None
    assert find_flat_top(library["test-table"].mesh, (0.1,)) is None  # nothing level in the middle


def test_a_library_is_what_was_written(library: ObjectLibrary, tmp_path: Path) -> None:
    path = tmp_path / "models.tar"
    assert write_library(path, [library[key] for key in library.select()]) == len(library)
    again = ObjectLibrary()
    again.add(path)
    assert again.info == library.info
    for key in library.select():
        old, new = library[key].mesh, again[key].mesh
        assert np.array_equal(old.vertices, new.vertices) and np.array_equal(old.faces, new.faces)
        assert np.array_equal(old.texture, new.texture)
        assert np.abs(old.normals - new.normals).max() < 0.005 and np.abs(old.uv - new.uv).max() < 1e-4
    second = tmp_path / "again.tar"
    write_library(second, [library[key] for key in library.select()])
    assert second.read_bytes() == path.read_bytes()


def test_a_library_keeps_the_keys_of_its_json(library: ObjectLibrary, tmp_path: Path) -> None:
    """Libraries on users' disks name the class `kind`."""
    write_library(tmp_path / "models.tar", [library["test-table"]])
    with tarfile.open(tmp_path / "models.tar") as tar:
        values = json.load(tar.extractfile("test-table.json"))
    assert values["kind"] == "table" and "class_name" not in values
    assert values.keys() == {"key", "label", "kind", "tags", "category", "source", "creator", "licence", "size"} | {
        "shape",
        "tinted",
        "top",
    }


def test_a_damaged_mesh_is_an_error_that_names_the_model(library: ObjectLibrary, tmp_path: Path) -> None:
    path = tmp_path / "models.tar"
    write_library(path, [library["test-table"]])
    with tarfile.open(path) as tar:
        members = {name: tar.extractfile(name).read() for name in tar.getnames()}
    write_members(path, {**members, "test-table.npz": b"no array"}.items())
    again = ObjectLibrary()
    again.add(path)
    with pytest.raises(DataError, match="test-table is damaged"):
        again["test-table"]


def test_a_file_that_is_not_a_library_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "models.tar"
    path.write_bytes(b"no tar")
    with pytest.raises(DataError, match=r"synthetic\.furniture"):
        ObjectLibrary().add(path)
    with pytest.raises(DataError, match=r"synthetic\.furniture"):
        ObjectLibrary().add(tmp_path / "gone.tar")


def test_each_model_is_in_one_split(library: ObjectLibrary) -> None:
    parts = [set(library.select(split)) for split in SPLITS]
    assert set().union(*parts) == set(library.select()) and sum(map(len, parts)) == len(library)
    info = library.info["pybullet-cone"]
    shares = dict.fromkeys(SPLITS, 0)
    for number in range(2000):
        shares[replace(info, key=f"k{number}").split] += 1
    assert 1300 < shares["train"] < 1500 and 150 < shares["val"] < 260 and 320 < shares["test"] < 480
    # these never change: a model must not move from one split to another
    assert [library.info[f"pybullet-{name}"].split for name in ("cone", "cylinder", "vase")] == [
        "test",
        "train",
        "train",
    ]


def test_colours_are_named_and_tinted(library: ObjectLibrary) -> None:
    vase = library["pybullet-vase"]
    assert vase.colour() == "white"
    assert [vase.colour(tint) for tint in ((0.9, 0.1, 0.1), (0.15, 0.3, 0.85))] == ["red", "blue"]


def test_they_are_enough_for_every_split() -> None:
    library = ObjectLibrary(bundled_models())
    assert len(library) == len(OBJECTS) + len(REVOLVED)
    for split in ("train", "val", "test"):
        SceneSampler(library, library.select(split), LayoutConfig())
    assert all(0.05 < max(info.size) < 0.6 and info.licence and info.creator for info in library.info.values())
    assert library["pybullet-rubber-duck"].colour() == "yellow"


def test_a_surface_of_revolution_is_closed_and_has_its_outline() -> None:
    mesh = revolved_models()["pybullet-cylinder"].mesh
    assert mesh.size == pytest.approx((0.16, 0.16, 0.22))
    edges = np.sort(np.concatenate([mesh.faces[:, [0, 1]], mesh.faces[:, [1, 2]], mesh.faces[:, [2, 0]]]), axis=1)
    corners = np.unique(mesh.vertices.round(4), axis=0, return_inverse=True)[1][edges]
    _, counts = np.unique(np.sort(corners, axis=1), axis=0, return_counts=True)
    assert (counts == 2).all()  # every edge has two faces


def test_a_python_without_a_wheel_of_pybullet_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pybullet_data", None)
    monkeypatch.setattr(sys, "version_info", (3, 13, 1))
    with pytest.raises(ConfigError, match=r"has no wheel for Python 3\.13; use Python 3\.11"):
        bundled_models()


def test_labels_are_plain_nouns() -> None:
    names = ("Apple iMac 2004", "Female", "Oak chair", "TV 16:9", "Sofa 3 seats", "Concept Sedan 02 Sport", "Shelves")
    assert [label_of(name) for name in names] == ["computer", "woman", "oak chair", "tv", "sofa", "car", "shelf"]


def test_the_class_is_what_an_object_is_counted_as() -> None:
    names = ("Oak chair", "Bulldog", "Pool table", "Sheet of glass")
    assert [class_of(name) for name in names] == ["chair", "dog", "pool table", "sheet of glass"]


def test_plurals() -> None:
    plurals = [plural_of(noun) for noun in ("chair", "box", "knife", "pair of slippers", "cherry", "snowman", "toy")]
    assert plurals == ["chairs", "boxes", "knives", "pairs of slippers", "cherries", "snowmen", "toys"]


def test_families_have_the_name_of_their_first_class() -> None:
    assert family_of("armchair") == family_of("stool") == "chair" and family_of("duck") == "duck"


def test_a_class_is_in_one_family_and_a_name_has_one_rule() -> None:
    tables = json.loads(files("synthetic.scenes.objects").joinpath("names.json").read_text(encoding="utf-8"))
    members = [name for family in tables["families"] for name in family]
    assert len(members) == len(set(members))
    assert not set(tables["heads"]) & set(tables["no_heads"])
    assert all(label_of(name) == label for name, label in tables["renamed"].items())
    assert label_of("captain's bed") == "bed" and class_of("coffee mug") == "mug" and plural_of("shelf") == "shelves"
    assert all(EXCLUDED.search(name) for name in ("Sink", "Shower 2", "Frame 3")) and not EXCLUDED.search(
        "Sinking ship"
    )


def archive(path: Path, entries: list[dict[str, str]], contents: dict[str, bytes]) -> None:
    text = "".join(
        f"{key}#{number}={value}\n" for number, entry in enumerate(entries, 1) for key, value in entry.items()
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as built:
        built.writestr(CATALOGUE, text)
        for name, content in contents.items():
            built.writestr(name, content)


def test_furniture_is_built_into_a_library(tmp_path: Path) -> None:
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
    directory = tmp_path / "usr" / "share" / "sweethome3d" / "furniture"
    archive(directory / "KatorLegaz.sh3f", entries, contents)
    built = build_library(tmp_path, tmp_path / "out.tar", jobs=1)
    assert built.models == 1 and [failure.source for failure in built.failures] == ["b/b.obj"]
    library = ObjectLibrary()
    library.add(built.path)
    (info,) = library.info.values()
    assert (info.key, info.label, info.class_name) == ("sh3d-Scopia-a", "oak table", "table")
    assert (info.creator, info.licence, info.tags) == ("Eva", "CC-BY-3.0-US", ("desk", "wood"))
    assert info.size == pytest.approx((2.0, 0.0, 1.0))


def test_a_package_without_archives_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="sweethome3d-furniture"):
        build_library(tmp_path, tmp_path / "out.tar", jobs=1)
    directory = tmp_path / "usr" / "share" / "sweethome3d" / "furniture"
    directory.mkdir(parents=True)
    (directory / "Scopia.sh3f").write_bytes(b"no zip")
    with pytest.raises(DataError, match=r"Scopia\.sh3f"):
        build_library(tmp_path, tmp_path / "out.tar", jobs=1)
