"""Where an index lies: in the folder that it is of, in a folder around it, or in a directory of its own (`--index`)."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from perception_encoder.errors import OutputError, SearchIndexError
from perception_encoder.preprocess.source import escape_name
from perception_encoder.search.index.index import FOLDER, Index
from perception_encoder.search.index.settings import SETTINGS, salvage_settings


def nearest_home(folder: Path) -> Path | None:
    """The folder itself if it has an index, else the nearest one around it that has one of it; None if none has."""
    if Index.exists(folder):
        return folder
    if not folder.is_dir():
        return None
    return next((around for around in _absolute(folder).parents if _is_around(around, folder)), None)


def _is_around(home: Path, folder: Path) -> bool:
    """Whether a directory has an index that this user may read, and the folder is in its root."""
    if not Index.exists(home) or not os.access(home / FOLDER / SETTINGS, os.R_OK):
        return False
    settings = salvage_settings(home / FOLDER) or {}
    return _absolute(folder).is_relative_to(_absolute(home / settings.get("root", "")))


def limited(index: Index, folder: Path | str) -> Index:
    """An index that shows what is in a folder in its root alone; SearchIndexError if the folder is not in there."""
    inside = _inside(index, Path(folder))
    if inside != Path() and not os.path.isdir(folder):
        raise SearchIndexError(f"{folder} is not a directory; an index searches {index.root} or directories in it")
    index.below = "" if inside == Path() else f"{escape_name(inside)}/"
    return index


def check_root(index: Index, folder: Path) -> None:
    """SearchIndexError unless an index is of a folder; its own directory stands for the folder."""
    if _inside(index, folder) != Path():
        raise SearchIndexError(_other(index.folder, index.root, folder))


def make_home(folder: Path, home: Path | None) -> tuple[Path, Path]:
    """The folder to index and the directory that holds its index, made if need be; by default, they are the same.

    A directory that holds another folder's index stands for that folder. Raises OutputError, SearchIndexError.
    """
    named = home is not None
    if home is None or _absolute(home) == _absolute(folder):
        root = home = folder
    elif folder.is_dir():
        root = _absolute(folder)
        if not home.exists():
            _make(home, root)
    else:
        raise OutputError(f"{folder} is not a directory")
    if Index.exists(home):
        settings = salvage_settings(home / FOLDER)
        if settings is not None:  # the table may be damaged, which is not for here to say
            root = Path(settings.get("root") or home)
            if _absolute(folder) not in (_absolute(home), _absolute(root)):
                raise SearchIndexError(_other(home, root, folder))
        elif not named:
            Index.open(home)  # raises: nothing says what directory it is of, and its error asks for it
    if home.is_dir():
        _check_writable(home, folder)
    return root, home


def _make(home: Path, root: Path) -> None:
    """Make a directory that lets nobody see more of the images than the folder that they are in."""
    try:
        home.mkdir(parents=True)
        home.chmod(stat.S_IMODE(root.stat().st_mode) & 0o777 | 0o700)
    except OSError as error:
        raise OutputError(f"{home} could not be made: {error.strerror}") from error


def _check_writable(home: Path, folder: Path) -> None:
    place = home / FOLDER
    try:
        place.mkdir(exist_ok=True)
        if not os.access(place, os.W_OK):
            raise PermissionError(0, "no permission to write")
    except OSError as error:
        raise OutputError(
            f"{place} could not be written: {error.strerror}; keep the index elsewhere: pe index {folder} --index DIR"
        ) from error


def _inside(index: Index, folder: Path) -> Path:
    """A folder's path below the index's root; that of the directory that holds the index is the root's."""
    absolute = _absolute(folder)
    if absolute == _absolute(index.folder):
        return Path()
    try:
        return absolute.relative_to(_absolute(index.root))
    except ValueError:
        raise SearchIndexError(_other(index.folder, index.root, folder)) from None


def _other(home: Path, root: Path, folder: Path) -> str:
    return f"the index in {home} is of {root}, not of {folder}; choose another --index"


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))
