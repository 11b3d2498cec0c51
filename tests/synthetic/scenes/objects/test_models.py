"""A library of models is read as it was written, and each model is in one split."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

import pytest

from perception_encoder.errors import DataError
from perception_encoder.formats.shards import write_members
from synthetic.scenes.objects.furniture import CATALOGUE, build_library
from synthetic.scenes.objects.models import ObjectLibrary, write_library
from tests.synthetic.scenes.objects.conftest import MTL, OBJ, png


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
