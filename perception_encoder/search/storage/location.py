"""Find and prepare the directory of an index: the directory itself, a parent, or a separate one (`--index`)."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from perception_encoder.errors import OutputError, SearchIndexError
from perception_encoder.preprocess.source import escape_name
from perception_encoder.search.storage.files import SETTINGS, salvage_settings
from perception_encoder.search.storage.store import STORE, Store


def nearest_index(media: Path) -> Path | None:
    """Return the directory if it has an index, else the nearest parent whose index covers it, or None."""
    if Store.exists(media):
        return media
    if not media.is_dir():
        return None
    return next((parent for parent in _absolute(media).parents if _covers(parent, media)), None)


def _covers(directory: Path, media: Path) -> bool:
    """Return whether a directory has an index that this user may read and whose root contains it."""
    if not Store.exists(directory) or not os.access(directory / STORE / SETTINGS, os.R_OK):
        return False
    settings = salvage_settings(directory / STORE) or {}
    return _absolute(media).is_relative_to(_absolute(directory / settings.get("root", "")))


def limit_store(index: Store, media: Path | str) -> Store:
    """Restrict an index to a directory in its root; SearchIndexError if the root does not contain it."""
    subdirectory = _relative(index, Path(media))
    if subdirectory != Path() and not os.path.isdir(media):
        raise SearchIndexError(f"{media} is not a directory; the index covers {index.root} and the directories in it")
    index.below = "" if subdirectory == Path() else f"{escape_name(subdirectory)}/"
    return index


def check_root(index: Store, media: Path) -> None:
    """Raise SearchIndexError if an index belongs to another directory; the index's own directory is also accepted."""
    if _relative(index, media) != Path():
        raise _other_root(index.directory, index.root, media)


def prepare_location(media: Path, directory: Path | None) -> tuple[Path, Path]:
    """Return the directory to index and the index's directory (by default the same), which is created if missing.

    A directory that stores the index of another one stands for it. Raises OutputError, SearchIndexError.
    """
    separate = directory is not None
    if directory is None or _absolute(directory) == _absolute(media):
        root = directory = media
    elif media.is_dir():
        root = _absolute(media)
        if not directory.exists():
            _create(directory, root)
    else:
        raise OutputError(f"{media} is not a directory")
    if Store.exists(directory):
        settings = salvage_settings(directory / STORE)
        if settings is not None:  # the table may still be damaged
            root = Path(settings.get("root") or directory)
            if _absolute(media) not in (_absolute(directory), _absolute(root)):
                raise _other_root(directory, root, media)
        elif not separate:
            Store.open(directory)  # raises: the settings do not name the directory, and the error asks for it
    if directory.is_dir():
        _check_writable(directory, media)
    return root, directory


def _create(directory: Path, root: Path) -> None:
    """Create a directory with the permissions of the images' directory."""
    try:
        directory.mkdir(parents=True)
        directory.chmod(stat.S_IMODE(root.stat().st_mode) & 0o777 | 0o700)
    except OSError as error:
        raise OutputError(f"{directory} could not be created: {error.strerror}") from error


def _check_writable(directory: Path, media: Path) -> None:
    path = directory / STORE
    try:
        path.mkdir(exist_ok=True)
        if not os.access(path, os.W_OK):
            raise PermissionError(0, "no permission to write")
    except OSError as error:
        raise OutputError(
            f"{path} could not be written: {error.strerror}; store the index elsewhere: pe index {media} --index DIR"
        ) from error


def _relative(index: Store, media: Path) -> Path:
    """Return a directory's path relative to the index's root; the index's own directory counts as the root."""
    absolute = _absolute(media)
    if absolute == _absolute(index.directory):
        return Path()
    try:
        return absolute.relative_to(_absolute(index.root))
    except ValueError:
        raise _other_root(index.directory, index.root, media) from None


def _other_root(directory: Path, root: Path, media: Path) -> SearchIndexError:
    return SearchIndexError(f"the index in {directory} belongs to {root}, not to {media}; give another --index")


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))
