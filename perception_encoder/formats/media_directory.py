"""Images and videos on disk that tables and annotations refer to, by a path or by a bare name."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from perception_encoder.errors import DataError
from perception_encoder.formats.tars import TarMember
from perception_encoder.preprocess.media_types import MEDIA_SUFFIXES


@dataclass(frozen=True)
class Clip:
    """A part of a video."""

    path: Path
    start: float
    """Seconds."""
    end: float | None = None


MediaSource = bytes | Path | Clip | TarMember
"""The content of an image or video, its file, or a part of a file; a missing file is noticed when it is opened."""


class MediaDirectory:
    """A directory whose files are looked up by path, or by name without suffix, however deep they lie."""

    def __init__(self, directory: Path) -> None:
        """Raises DataError if there is no such directory."""
        if not directory.is_dir():
            raise DataError(f"{directory} is not a directory; give the one that holds the images or videos")
        self.directory = directory

    def find(self, *names: str) -> Path:
        """The file of the first of these names that exists; else the path that the first one should have."""
        for name in names:
            direct = self.directory / name
            if os.path.isfile(direct):  # not `Path.is_file`, which raises for a name that is too long
                return direct
            if Path(name).name in self._by_name:
                return self._by_name[Path(name).name]
        return self.directory / names[0]

    @cached_property
    def _by_name(self) -> dict[str, Path]:
        """Files by their names with and without suffix; of several with one name the first in order."""
        files: dict[str, Path] = {}
        for path in list_media(self.directory):
            for name in (path.name, path.stem):
                files.setdefault(name, path)
        return files


def list_media(directory: Path) -> list[Path]:
    """The images and videos in a directory and below it, by their suffixes; hidden ones are left out."""
    paths = (path for path in directory.rglob("*") if path.suffix.lower() in MEDIA_SUFFIXES)
    return sorted(path for path in paths if not path.name.startswith(".") and path.is_file())
