"""Find images and videos on disk that tables and annotations refer to by path or name."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from perception_encoder.errors import DataError
from perception_encoder.formats.tables import TableImage
from perception_encoder.formats.tars import TarMember
from perception_encoder.preprocess.source import MEDIA_SUFFIXES


@dataclass(frozen=True)
class Clip:
    """A part of a video."""

    path: Path
    start: float
    """Seconds."""
    end: float | None = None


MediaSource = bytes | Path | Clip | TarMember | TableImage
"""The content of an image or video, its file, or a part of a file or table; files are not opened yet."""


def unpacked(source: bytes | Path | TarMember | TableImage, name: str) -> bytes | Path:
    """Return a file's path, or the content of anything else; MediaDecodeError if a tar or a table cannot be read."""
    if isinstance(source, TarMember):
        return source.read(name)
    return source.read() if isinstance(source, TableImage) else source


class MediaDirectory:
    """A directory whose files are looked up by path or, at any depth, by path or name with or without suffix."""

    def __init__(self, directory: Path) -> None:
        """Raise DataError if the directory does not exist."""
        if not directory.is_dir():
            raise DataError(f"{directory} is not a directory; give the one that holds the images or videos")
        self.directory = directory

    def find(self, *names: str) -> Path:
        """Return the file of the first existing name, or the expected path of the first name."""
        for name in names:
            direct = self.directory / name
            if os.path.isfile(direct):  # not `Path.is_file`, which raises for a name that is too long
                return direct
            if files := self._by_name.get(Path(name).name):
                end = f"/{Path(name).as_posix()}"
                paths = ((file, file.as_posix(), file.with_suffix("").as_posix()) for file in files)
                return next((file for file, *ends in paths if any(path.endswith(end) for path in ends)), files[0])
        return self.directory / names[0]

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        files: dict[str, list[Path]] = {}
        for path in list_media(self.directory):
            for name in (path.name, path.stem):
                files.setdefault(name, []).append(path)
        return files


def list_media(directory: Path) -> list[Path]:
    """Return the images and videos at any depth of a directory, by suffix, without hidden ones."""
    paths = (path for path in directory.rglob("*") if path.suffix.lower() in MEDIA_SUFFIXES)
    return sorted(path for path in paths if not path.name.startswith(".") and path.is_file())
