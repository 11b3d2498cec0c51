"""Find and prepare the directory of an index: the directory itself, a parent, or a separate one (`--index`)."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from perception_encoder.errors import OutputError, SearchIndexError
from perception_encoder.files import writing
from perception_encoder.preprocess.source import escape_name
from perception_encoder.search.storage.database import DATABASE
from perception_encoder.search.storage.seal import STORE, elsewhere, salvage
from perception_encoder.search.storage.store import IndexStore


def nearest_index(media: Path) -> Path | None:
    """Return the directory, or the nearest one around it, whose readable index covers it; None if there is none."""
    for directory in (media, *_absolute(media).parents) if media.is_dir() else ():
        if IndexStore.exists(directory) and os.access(directory / STORE / DATABASE, os.R_OK):
            settings = salvage(directory / STORE) or {}
            if _absolute(media).is_relative_to(_absolute(directory / settings.get("root", ""))):
                return directory
    return None


def indexed_directory(home: Path) -> Path:
    """Return the directory of which another one has the index; that one itself if the index does not say."""
    return Path((salvage(home / STORE) or {}).get("root") or home)


def limit_store(index: IndexStore, media: Path | str) -> IndexStore:
    """Restrict an index to a directory in its root; SearchIndexError if the root does not contain it.

    A link to another directory in the root, where it has no rows, is that directory.
    """
    root = _absolute(index.root)
    if not _absolute(Path(media)).is_relative_to(root):
        raise _other_root(index.directory, index.root, media)
    subdirectory = _absolute(Path(media)).relative_to(root)
    if subdirectory != Path() and not os.path.isdir(media):
        raise SearchIndexError(f"{media} is not a directory; the index covers {index.root} and the directories in it")
    real, real_root = Path(os.path.realpath(media)), Path(os.path.realpath(root))
    for path in (subdirectory, real.relative_to(real_root) if real.is_relative_to(real_root) else Path()):
        if path != Path():
            index.below = f"{escape_name(path)}/"
            if len(index):
                break
    return index


def check_root(directory: Path, root: Path, media: Path) -> None:
    """Raise SearchIndexError if the index in a directory belongs to another root than the media."""
    if _absolute(media) != _absolute(root):
        raise _other_root(directory, root, media)


def prepare_location(media: Path, directory: Path | None) -> tuple[Path, Path]:
    """Return the directory to index and the index's directory (by default the same), which is created if missing.

    Raises OutputError, SearchIndexError.
    """
    if not media.is_dir():
        raise OutputError(f"{media} is not a directory")
    root, home = media, directory or media
    if _absolute(home) != _absolute(media):
        root = _absolute(media)
        if not home.exists():
            with writing(home):
                home.mkdir(parents=True)
                home.chmod(stat.S_IMODE(root.stat().st_mode) & 0o777 | 0o700)
    if IndexStore.exists(home) and (settings := salvage(home / STORE)):  # the rows may still be damaged
        check_root(home, home / settings.get("root", ""), media)
    with writing(home / STORE, elsewhere(media)):
        (home / STORE).mkdir(exist_ok=True)
        if not os.access(home / STORE, os.W_OK):
            raise PermissionError(0, "no permission to write")
    return root, home


def _other_root(directory: Path, root: Path, media: Path | str) -> SearchIndexError:
    return SearchIndexError(f"the index in {directory} belongs to {root}, not to {media}; give another --index")


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))
