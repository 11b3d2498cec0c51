"""An annotation project: a dataset's videos, which stay in their tars, and the people who refine their captions."""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perception_encoder.datasets.pe_video import list_video_tars, read_video_tar, split_of
from perception_encoder.errors import ConfigError, DataError, InputError
from perception_encoder.formats.tars import TarMember
from perception_encoder.progress import Track, untracked
from perception_encoder.video_dataset.annotation.database import Database, fits

FILE_NAME = "annotations.sqlite"
LONGEST_NAME = 40
DOUBLE = 0.1
"""Default share of videos that two people annotate."""


@dataclass(frozen=True, kw_only=True)
class ProjectClip:
    """A video of a project."""

    id: int
    key: str
    split: str
    original: str
    """The model's caption."""
    category: str
    rate: float | None
    """Frames per second, if the dataset states it."""


class AnnotationProject:
    """A dataset and the database of its annotations."""

    def __init__(self, data: Path, file: Path | None = None, now: Callable[[], float] = time.time) -> None:
        """`data`: a tar or a directory of tars; `file`: the database, by default in that directory.

        Raises what `Database` and `list_video_tars` raise.
        """
        self.data, self.now = data, now
        directory = data if data.is_dir() else data.parent
        self.tars = {tar.relative_to(directory).as_posix(): tar for tar in list_video_tars(data)}
        self.database = Database(file or directory / FILE_NAME)

    def close(self) -> None:
        """Close the database."""
        self.database.close()

    def update(self, track: Track = untracked) -> int:
        """Read new and changed tars; return the number of videos.

        A missing video is no longer offered; its annotations are kept, and move to a video of the same key and caption
        in another tar.
        """
        with self.database.transaction() as connection:
            known = {row["path"]: row for row in connection.execute("SELECT * FROM tars")}
            statuses = {name: tar.stat() for name, tar in self.tars.items()}
            stamps = {name: (status.st_size, status.st_mtime_ns) for name, status in statuses.items()}
            changed = [
                name
                for name, stamp in stamps.items()
                if name not in known or (known[name]["size"], known[name]["modified"]) != stamp
            ]
            for name in track(changed, "reading the dataset", len(changed)):
                _read_tar(connection, name, self.tars[name], *stamps[name])
            gone = [(known[name]["id"],) for name in known.keys() - self.tars.keys()]
            connection.executemany("UPDATE clips SET size = 0 WHERE tar = ?", gone)
            connection.executemany("UPDATE tars SET size = -1 WHERE id = ?", gone)
            if changed:
                _follow_moved(connection)
                setting = connection.execute("SELECT value FROM settings WHERE name = 'double'").fetchone()
                _choose_doubles(connection, DOUBLE if setting is None else setting["value"])
        return self.count()

    def count(self) -> int:
        """Return the number of videos."""
        with self.database.reading() as connection:
            return int(connection.execute("SELECT count(*) FROM clips WHERE size > 0").fetchone()[0])

    def set_double(self, share: float) -> None:
        """Set the share of videos that two people annotate; a larger share includes those of a smaller one."""
        if not 0 <= share <= 1:
            raise ConfigError(f"the share of double annotations is {share:g}; it must be from 0 to 1")
        with self.database.transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO settings VALUES ('double', ?)", (share,))
            _choose_doubles(connection, share)

    def video(self, clip: int) -> tuple[TarMember, str]:
        """Return the location and the extension of a video; InputError if it no longer exists.

        Only members of the tars that were listed when the project was opened are returned.
        """
        query = "SELECT clips.*, tars.path FROM clips JOIN tars ON tars.id = clips.tar WHERE clips.id = ?"
        with self.database.reading() as connection:
            row: Any = connection.execute(query, (clip,)).fetchone() if fits(clip) else None
        tar = self.tars.get(row["path"]) if row is not None and row["size"] > 0 else None
        if tar is None:
            raise InputError(f"video {clip}", "does not exist, or its tar was removed")
        return TarMember(tar, row["offset"], row["size"]), row["extension"]


def check_name(name: str) -> str:
    """Return a person's name without surrounding spaces; ConfigError unless it has 1 to 40 printable characters."""
    name = name.strip()
    if not 1 <= len(name) <= LONGEST_NAME or not name.isprintable():
        raise ConfigError(f"the name is {name[:60]!r}; it must have 1 to {LONGEST_NAME} printable characters")
    return name


def add_person(connection: sqlite3.Connection, name: str) -> str:
    """Add a person who is not there yet; return the checked name."""
    name = check_name(name)
    connection.execute("INSERT OR IGNORE INTO people VALUES (?)", (name,))
    return name


def _read_tar(connection: sqlite3.Connection, name: str, tar: Path, size: int, modified: int) -> None:
    """Add a tar's videos; for known ones, update only the location of their bytes and their frame rate."""
    (tar_id,) = connection.execute(
        "INSERT INTO tars (path, split, size, modified) VALUES (?, ?, ?, ?) ON CONFLICT (path) DO UPDATE SET "
        "size = excluded.size, modified = excluded.modified RETURNING id",
        (name, split_of(tar), size, modified),
    ).fetchone()
    connection.execute("UPDATE clips SET size = 0 WHERE tar = ?", (tar_id,))
    rows = []
    for record in read_video_tar(tar):
        video = (record.extension, record.video.offset, record.video.size)
        rows.append((tar_id, record.key, *video, record.model_caption, record.category, record.frame_rate))
    if len({key for _, key, *_ in rows}) < len(rows):
        raise DataError(f"{tar}: two videos have the same key")
    connection.executemany(
        "INSERT INTO clips (tar, key, extension, offset, size, caption, category, rate) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (tar, key) DO UPDATE SET extension = excluded.extension, "
        "offset = excluded.offset, size = excluded.size, rate = excluded.rate",
        rows,
    )


def _follow_moved(connection: sqlite3.Connection) -> None:
    """Move the annotations of missing videos to unstarted videos with the same key and caption."""
    moved = connection.execute(
        "SELECT new.id, old.id FROM clips AS old JOIN clips AS new ON new.key = old.key AND new.caption = old.caption "
        "WHERE old.size = 0 AND new.size > 0 AND NOT EXISTS (SELECT 1 FROM annotations WHERE clip = new.id) "
        "GROUP BY new.id"
    ).fetchall()
    connection.executemany("UPDATE OR IGNORE annotations SET clip = ? WHERE clip = ?", map(tuple, moved))


def _choose_doubles(connection: sqlite3.Connection, share: float) -> None:
    """Choose the videos for double annotation by a hash of their keys alone."""
    connection.create_function("fraction", 1, _fraction, deterministic=True)
    query = "UPDATE clips SET needed = 1 + (fraction(key) < :share) WHERE needed != 1 + (fraction(key) < :share)"
    connection.execute(query, {"share": share})


def _fraction(key: str) -> float:
    return int.from_bytes(hashlib.sha256(key.encode(errors="replace")).digest()[:8], "big") / 2**64
