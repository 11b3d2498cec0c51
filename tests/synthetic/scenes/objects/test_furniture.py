"""The furniture's archives become a library."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from perception_encoder.errors import DataError
from synthetic.scenes.objects.furniture import CATALOGUE, build_library
from synthetic.scenes.objects.models import ObjectLibrary
from tests.synthetic.scenes.objects.conftest import MTL, OBJ, png


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
