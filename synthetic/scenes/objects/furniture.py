"""Debian's `sweethome3d-furniture`: 820 textured models with names, sizes and authors, made into a library.

The package holds archives (.sh3f) with a catalogue and OBJ files. Objects that hang on walls or lie flat like a road
marking are left out, and so are names that do not say what the object is. Each model keeps its author and its licence.
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
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import quote

import numpy as np

from perception_encoder.errors import DataError, MediaDecodeError, one_line
from perception_encoder.progress import Track, untracked
from synthetic.packages import fetch_debian
from synthetic.scenes.objects.meshes import bake, stand_upright
from synthetic.scenes.objects.models import ObjectInfo, ObjectModel, find_flat_top, write_library
from synthetic.scenes.objects.names import EXCLUDED, ROUND, class_of, label_of
from synthetic.scenes.objects.wavefront import read_obj

logger = logging.getLogger(__name__)

PACKAGE, LIBRARY = "sweethome3d-furniture", "furniture.tar"
CATALOGUE = "PluginFurnitureCatalog.properties"
SIZES = (0.02, 5.0)  # metres: smallest and largest longest side
THINNEST = 0.004  # metres: flatter objects look like a print on the floor
LICENCES = {"BlendSwap-CC-0": "CC0-1.0", "KatorLegaz": "CC-BY-3.0-US", "Reallusion": "CC-BY-3.0-US"}
OTHER_LICENCE = "CC-BY-3.0"
UNSUPPORTED = ("Doors and windows", "Staircases")


@dataclass(frozen=True, kw_only=True)
class PreparedLibrary:
    """A library that was made of the package."""

    path: Path
    models: int
    """Number of models; 0 if `finished_before`."""
    failures: tuple[MediaDecodeError, ...] = ()
    """Models that could not be read."""
    finished_before: bool = False


def prepare_furniture(out: Path, jobs: int | None = None, track: Track = untracked) -> PreparedLibrary:
    """Fetch the package and write `out/scenes/furniture.tar`, unless it exists.

    `jobs`: processes (by default the CPU's cores). Raises DataError if the package cannot be fetched.
    """
    path = out / "scenes" / LIBRARY
    if path.exists():
        return PreparedLibrary(path=path, models=0, finished_before=True)
    with tempfile.TemporaryDirectory(prefix="pe-scenes-") as directory:
        root = fetch_debian(PACKAGE, Path(directory))
        return build_library(root, path, jobs, track)


def build_library(root: Path, path: Path, jobs: int | None = None, track: Track = untracked) -> PreparedLibrary:
    """Make a library of an unpacked package; DataError if it has no archives, or one cannot be read."""
    archives = sorted((root / "usr" / "share" / "sweethome3d" / "furniture").glob("*.sh3f"))
    if not archives:
        raise DataError(f"no *.sh3f among the files of {PACKAGE}; was it fetched whole?")
    tasks = [(archive, entry) for archive in archives for entry in read_catalogue(archive)]
    failures: list[MediaDecodeError] = []

    def models() -> Iterator[ObjectModel]:
        for result in track(_read_all(tasks, jobs), "reading models", len(tasks)):
            if isinstance(result, MediaDecodeError):
                logger.warning("left out %s", result)
                failures.append(result)
            else:
                yield result

    return PreparedLibrary(path=path, models=write_library(path, models()), failures=tuple(failures))


def read_catalogue(archive: Path) -> list[dict[str, str]]:
    """Return the catalogue's entries that scenes can use, as properties by name; DataError if it cannot be read."""
    try:
        with zipfile.ZipFile(archive) as files:
            text = files.read(CATALOGUE).decode("latin-1")
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{archive.name}: not an archive of models ({one_line(error)})") from error
    text = re.sub(r"\\u([0-9a-fA-F]{4})", lambda match: chr(int(match[1], 16)), text)
    entries: dict[int, dict[str, str]] = {}
    for name, number, value in re.findall(r"^(\w+)#(\d+)\s*=[ \t]*(.*?)\s*$", text, flags=re.MULTILINE):
        entries.setdefault(int(number), {})[name] = value
    return [entries[number] for number in sorted(entries) if _is_usable(entries[number])]


def _is_usable(entry: Mapping[str, str]) -> bool:
    size = _size(entry)
    return (
        entry.get("category") not in UNSUPPORTED
        and entry.get("doorOrWindow") != "true"
        and float(entry.get("elevation", 0)) == 0
        and SIZES[0] <= max(size) <= SIZES[1]
        and size[2] >= THINNEST
        and not EXCLUDED.search(entry["name"])
    )


def _size(entry: Mapping[str, str]) -> tuple[float, float, float]:
    width, depth, height = (float(entry[side]) / 100 for side in ("width", "depth", "height"))
    return width, depth, height


def _read_all(tasks: list[tuple[Path, dict[str, str]]], jobs: int | None) -> Iterator[ObjectModel | MediaDecodeError]:
    """Read all models, in order; with one job in this process."""
    if jobs == 1:
        yield from map(_try_to_read, tasks)
        return
    with ProcessPoolExecutor(jobs or os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(_try_to_read, tasks, chunksize=4)


def _try_to_read(task: tuple[Path, dict[str, str]]) -> ObjectModel | MediaDecodeError:
    try:
        return _read_furniture(*task)
    except MediaDecodeError as error:
        return error


def _read_furniture(archive: Path, entry: Mapping[str, str]) -> ObjectModel:
    """Read one model of an archive; MediaDecodeError if its OBJ file is damaged."""
    name = entry["model"].lstrip("/")
    directory = PurePosixPath(name).parent
    with zipfile.ZipFile(archive) as files:

        def read(file: str) -> bytes:
            path = name if file == name else str(directory / file)
            return files.read(path if path in files.namelist() else quote(path))

        triangles = read_obj(name, read)
    rotation = entry.get("modelRotation")
    matrix = np.array(rotation.split(), dtype=np.float64).reshape(3, 3) if rotation else None
    mesh = bake(stand_upright(triangles, _size(entry), matrix))
    height = mesh.size[2]
    on_top = float(entry.get("dropOnTopElevation", 100 * height)) / 100
    class_name = class_of(entry["name"])
    info = ObjectInfo(
        key="sh3d-" + re.sub(r"[^A-Za-z0-9_-]+", "-", entry["id"]).strip("-"),
        label=label_of(entry["name"]),
        class_name=class_name,
        tags=tuple(tag.strip().lower() for tag in entry.get("tags", "").split(",") if tag.strip()),
        category=entry.get("category", "").lower(),
        source="sweethome3d",
        creator=entry.get("creator", ""),
        licence=LICENCES.get(archive.stem, OTHER_LICENCE),
        size=mesh.size,
        shape="sphere" if class_name in ROUND else "box",
        top=find_flat_top(mesh, (on_top, height)) if on_top > 0 else None,
    )
    return ObjectModel(info, mesh)
