"""One person's work: the next video, autosave, submit, skip with a reason, undo.

A video is offered until it has as many annotations as it needs. Whoever opens it holds it until a day after the last
change; a video that two people skipped is no longer offered. Each browser tab has a session: only the tab that opened
the video last may save, so that two tabs do not overwrite each other. A request that is sent twice, because the answer
was lost, takes effect once.
"""

from __future__ import annotations

import math
import sqlite3
from dataclasses import dataclass
from typing import Any

from perception_encoder.errors import ConfigError, InputError, PerceptionEncoderError
from perception_encoder.video_dataset.annotation.database import fits
from perception_encoder.video_dataset.annotation.project import (
    CLIP_COLUMNS,
    AnnotationProject,
    ProjectClip,
    admit,
    clip_of_row,
)

HOLD_SECONDS = 24 * 3600.0
"""Seconds after the last change for which a video stays reserved."""
MAX_SKIPS = 2
MAX_CAPTION = 20_000
_MAX_REASON = 500
_MAX_SECONDS = 24 * 3600.0
_TASK = f"SELECT annotations.*, {CLIP_COLUMNS} FROM annotations JOIN clips ON clips.id = annotations.clip "
_TASK += "JOIN tars ON tars.id = clips.tar WHERE annotations.id = ?"
_OPEN = """
SELECT clips.id, clips.caption FROM clips {assigned} WHERE clips.size > 0
    AND NOT EXISTS (SELECT 1 FROM annotations WHERE clip = clips.id AND person = :person)
    AND clips.needed > (
        SELECT count(*) FROM annotations WHERE clip = clips.id
        AND (state = 'done' OR state = 'draft' AND updated > :stale)
    )
    AND :max_skips > (SELECT count(*) FROM annotations WHERE clip = clips.id AND state = 'skipped')
ORDER BY clips.id LIMIT 1
"""
_ASSIGNED = _OPEN.format(assigned="JOIN assignments ON assignments.clip = clips.id AND assignments.person = :person")
_UNASSIGNED = _OPEN.format(assigned="").replace(
    "WHERE", "WHERE NOT EXISTS (SELECT 1 FROM assignments WHERE clip = clips.id) AND", 1
)


class AnnotationConflictError(PerceptionEncoderError):
    """A change conflicts with another person's or another tab's."""


@dataclass(frozen=True, kw_only=True)
class Edit:
    """The state of the editor when it is saved."""

    caption: str
    rating: int | None = None
    """Rating of the model's caption, 1 to 5."""
    seconds: float = 0.0
    """The person's working time so far."""
    session: str = ""
    sequence: int = 0
    """Increases with each save of a session; saves that arrive late are ignored."""

    def __post_init__(self) -> None:
        if self.rating is not None and not 1 <= self.rating <= 5:
            raise ConfigError(f"rating is {self.rating}; it must be 1 to 5")
        if not 0 <= self.seconds < math.inf:
            raise ConfigError(f"seconds is {self.seconds}; it must be at least 0")
        if not fits(self.sequence):
            raise ConfigError(f"sequence is {self.sequence}; it must be an integer of 64 bits")
        if len(self.caption) > MAX_CAPTION:
            raise ConfigError(f"the caption has {len(self.caption):,} characters; the limit is {MAX_CAPTION:,}")


@dataclass(frozen=True, kw_only=True)
class AnnotationTask:
    """A video that a person has opened."""

    id: int
    clip: ProjectClip
    caption: str
    rating: int | None
    note: str
    """Note from the reviewer who returned it."""
    seconds: float


def next_task(project: AnnotationProject, person: str, session: str) -> AnnotationTask | None:
    """Open the person's unfinished video, else an assigned one, else the first free one; None if none are left."""
    with project.database.transaction() as connection:
        person = admit(connection, person)
        query = "SELECT id FROM annotations WHERE person = ? AND state = 'draft' AND clip IN "
        query += "(SELECT id FROM clips WHERE size > 0) ORDER BY opened LIMIT 1"
        row = connection.execute(query, (person,)).fetchone()
        if row is None:
            clip = _find_open(connection, project.now(), person)
            if clip is None:
                return None
            now = project.now()
            row = connection.execute(
                "INSERT INTO annotations (clip, person, state, caption, opened, updated) "
                "VALUES (?, ?, 'draft', ?, ?, ?) RETURNING id",
                (clip["id"], person, clip["caption"], now, now),
            ).fetchone()
        return _open(connection, row["id"], session)


def upcoming_clip(project: AnnotationProject, person: str) -> int | None:
    """Return the video that the person would get next, for preloading, without reserving it."""
    with project.database.reading() as connection:
        row = _find_open(connection, project.now(), person)
        return None if row is None else int(row["id"])


def save(project: AnnotationProject, person: str, annotation: int, edit: Edit) -> None:
    """Store an unfinished caption; see `Edit` for saves that arrive twice or late.

    Raises InputError for an unknown id, and AnnotationConflictError if the annotation is another person's, finished, or
    open in another tab.
    """
    with project.database.transaction() as connection:
        row = editable_row(connection, _TASK, person, annotation)
        if row["session"] == edit.session and edit.sequence <= row["sequence"]:
            return
        check_session(row, edit.session)
        _store(connection, project.now(), annotation, edit)


def submit(project: AnnotationProject, person: str, annotation: int, edit: Edit) -> None:
    """Store a finished caption; ConfigError if it is empty or the model's caption is unrated, else errors as `save`."""
    with project.database.transaction() as connection:
        row = editable_row(connection, _TASK, person, annotation)
        caption = tidy_caption(edit.caption)
        if row["state"] == "done" and row["session"] == edit.session and row["caption"] == caption:
            return
        check_session(row, edit.session)
        if not edit.caption.strip():
            raise ConfigError("the caption is empty; write one, or skip the video with a reason")
        if edit.rating is None and row["original"]:
            raise ConfigError("the model's caption has no rating; rate it from 1 to 5")
        _store(connection, project.now(), annotation, edit)
        connection.execute(
            "UPDATE annotations SET state = 'done', caption = ?, note = '' WHERE id = ?",
            (caption, annotation),
        )
        record_decision(connection, project.now(), person, annotation, "submit")


def skip(project: AnnotationProject, person: str, annotation: int, reason: str, edit: Edit) -> None:
    """Skip a video but keep the typed text; ConfigError without a reason, else errors as `save`."""
    reason = reason.strip()
    if not 1 <= len(reason) <= _MAX_REASON:
        raise ConfigError(f"the reason has {len(reason)} characters; it must have 1 to {_MAX_REASON}")
    with project.database.transaction() as connection:
        row = editable_row(connection, _TASK, person, annotation)
        if row["state"] == "skipped" and row["session"] == edit.session and row["reason"] == reason:
            return
        check_session(row, edit.session)
        _store(connection, project.now(), annotation, edit)
        connection.execute("UPDATE annotations SET state = 'skipped', reason = ? WHERE id = ?", (reason, annotation))
        record_decision(connection, project.now(), person, annotation, "skip")


def undo(project: AnnotationProject, person: str, session: str) -> AnnotationTask | None:
    """Reopen the video that the person submitted or skipped last, as it was; None if there is none.

    Repeated calls go further back. AnnotationConflictError if someone has reviewed it or is reviewing it.
    """
    with project.database.transaction() as connection:
        person = admit(connection, person)
        decision = connection.execute(
            "SELECT * FROM decisions WHERE person = ? AND NOT undone AND action IN ('submit', 'skip') "
            "ORDER BY id DESC LIMIT 1",
            (person,),
        ).fetchone()
        if decision is None:
            return None
        annotation = decision["annotation"]
        if connection.execute("SELECT 1 FROM reviews WHERE annotation = ?", (annotation,)).fetchone():
            raise AnnotationConflictError("a reviewer has opened this video; it can no longer be undone")
        connection.execute("UPDATE decisions SET undone = 1 WHERE id = ?", (decision["id"],))
        # opened 0: it comes before the video that is open now
        connection.execute(
            "UPDATE annotations SET state = 'draft', reason = '', opened = 0, updated = ? WHERE id = ?",
            (project.now(), annotation),
        )
        return _open(connection, annotation, session)


def add_finished(
    connection: sqlite3.Connection, now: float, clip: int, person: str, edit: Edit, skip_reason: str = ""
) -> bool:
    """Add a caption, or a skip with its reason, from elsewhere; False if it is already present.

    An approved caption may have the annotator's text or the reviewer's. AnnotationConflictError if the person has
    another finished annotation of this video.
    """
    caption, state = tidy_caption(edit.caption), "skipped" if skip_reason else "done"
    row = connection.execute(
        "SELECT annotations.*, reviews.caption AS approved FROM annotations LEFT JOIN reviews "
        "ON reviews.annotation = annotations.id AND reviews.state = 'done' WHERE clip = ? AND annotations.person = ?",
        (clip, person),
    ).fetchone()
    if row is not None and row["state"] != "draft":
        if row["state"] == state == "skipped":
            return False
        if row["state"] == state and caption in (row["caption"], row["approved"]) and row["rating"] == edit.rating:
            return False
        raise AnnotationConflictError(f"{person} has already finished video {clip}, with another result")
    values = (clip, person, state, caption, edit.rating, skip_reason, edit.seconds, now, now)
    (annotation,) = connection.execute(
        "INSERT INTO annotations (clip, person, state, caption, rating, reason, seconds, opened, updated) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (clip, person) DO UPDATE SET state = excluded.state, "
        "caption = excluded.caption, rating = excluded.rating, reason = excluded.reason, seconds = excluded.seconds, "
        "updated = excluded.updated, session = '' RETURNING id",
        values,
    ).fetchone()
    record_decision(connection, now, person, annotation, "skip" if skip_reason else "submit")
    return True


def _find_open(connection: sqlite3.Connection, now: float, person: str) -> Any:
    values = {"person": person, "stale": now - HOLD_SECONDS, "max_skips": MAX_SKIPS}
    mine = connection.execute(_ASSIGNED, values).fetchone()
    return mine or connection.execute(_UNASSIGNED, values).fetchone()


def _open(connection: sqlite3.Connection, annotation: int, session: str) -> AnnotationTask:
    """Give the video to a tab; other tabs can no longer save it."""
    connection.execute("UPDATE annotations SET session = ?, sequence = 0 WHERE id = ?", (session, annotation))
    row = connection.execute(_TASK, (annotation,)).fetchone()
    return AnnotationTask(
        id=annotation,
        clip=clip_of_row(row),
        caption=row["caption"],
        rating=row["rating"],
        note=row["note"],
        seconds=row["seconds"],
    )


def editable_row(
    connection: sqlite3.Connection, query: str, person: str, annotation: int, subject: str = "annotation"
) -> Any:
    """Return the row of an annotation or its review if the person may change it; errors as `save`."""
    person, name = admit(connection, person), f"{subject} {annotation}"
    row = connection.execute(query, (annotation,)).fetchone() if fits(annotation) else None
    if row is None:
        raise InputError(name, "does not exist")
    if row["person"] != person:
        raise AnnotationConflictError(f"{name} belongs to {row['person']}, not to {person}")
    return row


def tidy_caption(text: str) -> str:
    """Return a caption without surrounding whitespace or whitespace at the ends of lines."""
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def check_session(row: Any, session: str) -> None:
    """Raise AnnotationConflictError unless an annotation or review is unfinished and open in this tab."""
    if row["state"] != "draft":
        raise AnnotationConflictError("this video is already finished, perhaps in another tab; reload the page")
    if row["session"] != session:
        raise AnnotationConflictError("this video was opened in another tab; continue there, or reload the page")


def _store(connection: sqlite3.Connection, now: float, annotation: int, edit: Edit) -> None:
    connection.execute(
        "UPDATE annotations SET caption = ?, rating = ?, seconds = max(seconds, ?), updated = ?, sequence = ? "
        "WHERE id = ?",
        (edit.caption, edit.rating, min(edit.seconds, _MAX_SECONDS), now, edit.sequence, annotation),
    )


def record_decision(connection: sqlite3.Connection, now: float, person: str, annotation: int, action: str) -> None:
    """Record that a person submitted, skipped, approved or returned an annotation."""
    connection.execute(
        "INSERT INTO decisions (person, annotation, action, time) VALUES (?, ?, ?, ?)",
        (person, annotation, action, now),
    )
