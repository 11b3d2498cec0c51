"""Models have a split, a colour and a flat top; a library is read as it was written."""

from __future__ import annotations

import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from perception_encoder.errors import DataError
from perception_encoder.formats.shards import write_members
from synthetic.scenes.objects.models import (
    SPLITS,
    ObjectLibrary,
    find_flat_top,
    write_library,
)


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
