"""Debian's `sweethome3d-furniture`: 820 textured models with names, sizes and authors, made into a library.

The package holds archives (.sh3f) with a catalogue and OBJ files. What hangs on walls, lies flat like a road marking,
or is named in a way that says nothing is left out. Each model keeps its author and its licence.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import re
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from urllib.parse import quote

import numpy as np

from perception_encoder.data.progress import Track, untracked
from perception_encoder.data.sources import fetch_debian
from perception_encoder.errors import DataError, MediaDecodeError
from perception_encoder.scenes.objects.meshes import bake, stand
from perception_encoder.scenes.objects.models import About, Model, find_top, write_library
from perception_encoder.scenes.objects.names import LEFT_OUT, ROUND, kind_of, label_of
from perception_encoder.scenes.objects.wavefront import read_obj

logger = logging.getLogger(__name__)

PACKAGE, LIBRARY = "sweethome3d-furniture", "furniture.tar"
CATALOGUE = "PluginFurnitureCatalog.properties"
BUDGET = 1000  # faces of a mesh
SIZES = (0.02, 5.0)  # metres: the least and the largest longest side
THINNEST = 0.004  # metres: lower things cannot be told from a picture of them
LICENCES = {"BlendSwap-CC-0": "CC0-1.0", "KatorLegaz": "CC-BY-3.0-US", "Reallusion": "CC-BY-3.0-US"}
OTHER_LICENCE = "CC-BY-3.0"
NOT_MODELLED = ("Doors and windows", "Staircases")


@dataclass(frozen=True, kw_only=True)
class PreparedLibrary:
    """What became of the package."""

    path: Path
    models: int
    """How many the library holds; 0 where `finished_before`."""
    failures: tuple[MediaDecodeError, ...] = ()
    """Models that could not be read."""
    finished_before: bool = False


def prepare_furniture(out: Path, jobs: int | None = None, track: Track = untracked) -> PreparedLibrary:
    """Fetch the package and write `out/scenes/furniture.tar`; a library that is there is not made again.

    `jobs`: processes (by default the CPU's cores). Raises DataError where the package cannot be fetched.
    """
    path = out / "scenes" / LIBRARY
    if path.exists():
        return PreparedLibrary(path=path, models=0, finished_before=True)
    with tempfile.TemporaryDirectory(prefix="pe-scenes-") as folder:
        root = fetch_debian(PACKAGE, Path(folder))
        return build_library(root, path, jobs, track)


def build_library(root: Path, path: Path, jobs: int | None = None, track: Track = untracked) -> PreparedLibrary:
    """Make a library of an unpacked package."""
    archives = sorted((root / "usr" / "share" / "sweethome3d" / "furniture").glob("*.sh3f"))
    if not archives:
        raise DataError(f"no *.sh3f among the files of {PACKAGE}; was it fetched whole?")
    tasks = [(archive, entry) for archive in archives for entry in read_catalogue(archive)]
    failures: list[MediaDecodeError] = []

    def models() -> Iterator[Model]:
        for result in track(_read_all(tasks, jobs), "reading models", len(tasks)):
            if isinstance(result, MediaDecodeError):
                logger.warning("left out %s", result)
                failures.append(result)
            else:
                yield result

    return PreparedLibrary(path=path, models=write_library(path, models()), failures=tuple(failures))


def _read_all(tasks: list[tuple[Path, dict[str, str]]], jobs: int | None) -> Iterator[Model | MediaDecodeError]:
    """Read all models, in order; with one job in this process."""
    if jobs == 1:
        yield from map(_read_one, tasks)
        return
    with ProcessPoolExecutor(jobs or os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(_read_one, tasks, chunksize=4)


def read_catalogue(archive: Path) -> list[dict[str, str]]:
    """The catalogue's entries that scenes can use, as its properties by name; DataError where it cannot be read."""
    try:
        with zipfile.ZipFile(archive) as files:
            text = files.read(CATALOGUE).decode("latin-1")
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{archive.name}: not an archive of models ({error})") from error
    text = re.sub(r"\\u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), text)
    entries: dict[int, dict[str, str]] = {}
    for name, number, value in re.findall(r"^(\w+)#(\d+)\s*=[ \t]*(.*?)\s*$", text, flags=re.MULTILINE):
        entries.setdefault(int(number), {})[name] = value
    return [entries[number] for number in sorted(entries) if _is_usable(entries[number])]


def _is_usable(entry: Mapping[str, str]) -> bool:
    size = _size(entry)
    return (
        entry.get("category") not in NOT_MODELLED
        and entry.get("doorOrWindow") != "true"
        and float(entry.get("elevation", 0)) == 0
        and SIZES[0] <= max(size) <= SIZES[1]
        and size[2] >= THINNEST
        and not LEFT_OUT.search(entry["name"])
    )


def _size(entry: Mapping[str, str]) -> tuple[float, float, float]:
    width, depth, height = (float(entry[side]) / 100 for side in ("width", "depth", "height"))
    return width, depth, height


def _read_one(task: tuple[Path, dict[str, str]]) -> Model | MediaDecodeError:
    archive, entry = task
    try:
        return read_model(archive, entry)
    except MediaDecodeError as error:
        return error


def read_model(archive: Path, entry: Mapping[str, str]) -> Model:
    """Read one model of an archive; MediaDecodeError where it cannot be."""
    name = entry["model"].lstrip("/")
    folder = PurePosixPath(name).parent
    with zipfile.ZipFile(archive) as files:

        def read(file: str) -> bytes:
            if file == name:
                return files.read(name)
            place = str(folder / file)
            return files.read(place if place in files.namelist() else quote(place))

        triangles = read_obj(name, read)
    rotation = entry.get("modelRotation")
    matrix = np.array(rotation.split(), dtype=np.float64).reshape(3, 3) if rotation else None
    mesh = bake(stand(triangles, _size(entry), matrix), BUDGET)
    width, depth, height = (float(side) for side in np.ptp(mesh.vertices, axis=0))
    on_top = float(entry.get("dropOnTopElevation", 100 * height)) / 100
    about = About(
        key="sh3d-" + re.sub(r"[^A-Za-z0-9_-]+", "-", entry["id"]).strip("-"),
        label=label_of(entry["name"]),
        kind=kind_of(entry["name"]),
        tags=tuple(tag.strip().lower() for tag in entry.get("tags", "").split(",") if tag.strip()),
        category=entry.get("category", "").lower(),
        source="sweethome3d",
        creator=entry.get("creator", ""),
        licence=LICENCES.get(archive.stem, OTHER_LICENCE),
        size=(width, depth, height),
        shape="sphere" if kind_of(entry["name"]) in ROUND else "box",
    )
    return Model(replace(about, top=find_top(mesh, (on_top, height)) if on_top > 0 else None), mesh)
