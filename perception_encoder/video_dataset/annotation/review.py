"""Review by a second person: approve a finished caption, with or without corrections, or return it with a note."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Any

from perception_encoder.errors import ConfigError
from perception_encoder.video_dataset.annotation.database import fits
from perception_encoder.video_dataset.annotation.project import (
    CLIP_COLUMNS,
    AnnotationProject,
    ProjectClip,
    admit,
    clip_of_row,
)
from perception_encoder.video_dataset.annotation.work import (
    HOLD_SECONDS,
    AnnotationConflictError,
    Edit,
    check_session,
    editable_row,
    record_decision,
    tidy_caption,
)

_MAX_NOTE = 500
_REVIEW = f"""
SELECT reviews.*, annotations.person AS annotator, annotations.caption AS annotated, annotations.rating, {CLIP_COLUMNS}
FROM reviews JOIN annotations ON annotations.id = reviews.annotation JOIN clips ON clips.id = annotations.clip
JOIN tars ON tars.id = clips.tar WHERE reviews.annotation = ?
"""
_FREE = """
SELECT annotations.id, annotations.caption FROM annotations JOIN clips ON clips.id = annotations.clip
LEFT JOIN reviews ON reviews.annotation = annotations.id
WHERE annotations.state = 'done' AND annotations.person != :person AND clips.size > 0
    AND (reviews.annotation IS NULL OR reviews.state = 'draft' AND reviews.updated < :stale)
ORDER BY annotations.id LIMIT 1
"""


@dataclass(frozen=True, kw_only=True)
class ReviewTask:
    """A finished annotation that a reviewer has opened."""

    id: int
    """Id of the annotation."""
    clip: ProjectClip
    annotator: str
    annotated: str
    """The annotator's caption."""
    caption: str
    """The caption with the reviewer's corrections so far."""
    rating: int | None
    """The annotator's rating of the model's caption."""
    seconds: float


def next_review(project: AnnotationProject, person: str, session: str) -> ReviewTask | None:
    """Open the reviewer's unfinished review, else another person's finished annotation; None if there are none."""
    with project.database.transaction() as connection:
        person = admit(connection, person)
        row = connection.execute(
            "SELECT annotation FROM reviews WHERE person = ? AND state = 'draft' ORDER BY opened LIMIT 1", (person,)
        ).fetchone()
        if row is not None:
            return _open(connection, row["annotation"], session)
        now = project.now()
        free = connection.execute(_FREE, {"person": person, "stale": now - HOLD_SECONDS}).fetchone()
        if free is None:
            return None
        _begin(connection, free["id"], person, free["caption"], now)
        return _open(connection, free["id"], session)


def save_review(project: AnnotationProject, person: str, annotation: int, edit: Edit) -> None:
    """Store an unfinished correction; errors as `work.save`."""
    with project.database.transaction() as connection:
        row = _own_review(connection, person, annotation)
        if row["session"] == edit.session and edit.sequence <= row["sequence"]:
            return
        check_session(row, edit.session)
        _store(connection, project.now(), annotation, edit)


def approve(project: AnnotationProject, person: str, annotation: int, edit: Edit) -> None:
    """Approve the caption with the reviewer's corrections; ConfigError if it is empty, else errors as `work.save`."""
    with project.database.transaction() as connection:
        row = _own_review(connection, person, annotation)
        caption = tidy_caption(edit.caption)
        if row["state"] == "done" and row["session"] == edit.session and row["caption"] == caption:
            return
        check_session(row, edit.session)
        if not edit.caption.strip():
            raise ConfigError("the caption is empty; write one, or return the video with a note")
        _store(connection, project.now(), annotation, edit)
        connection.execute(
            "UPDATE reviews SET state = 'done', caption = ? WHERE annotation = ?",
            (caption, annotation),
        )
        record_decision(connection, project.now(), person, annotation, "approve")


def return_to_annotator(project: AnnotationProject, person: str, annotation: int, note: str, session: str) -> None:
    """Return the caption to its annotator; ConfigError without a note, else errors as `work.save`."""
    note = note.strip()
    if not 1 <= len(note) <= _MAX_NOTE:
        raise ConfigError(f"the note has {len(note)} characters; it must have 1 to {_MAX_NOTE}")
    with project.database.transaction() as connection:
        if _is_returned(connection, person, annotation, note):
            return
        check_session(_own_review(connection, person, annotation), session)
        connection.execute("DELETE FROM reviews WHERE annotation = ?", (annotation,))
        connection.execute(
            "UPDATE annotations SET state = 'draft', note = ?, opened = 0, session = '', sequence = 0 WHERE id = ?",
            (note, annotation),
        )
        record_decision(connection, project.now(), person, annotation, "return")


def undo_review(project: AnnotationProject, person: str, session: str) -> ReviewTask | None:
    """Reopen the review that the person finished last; None if there is none.

    AnnotationConflictError if the annotator has opened the returned video.
    """
    with project.database.transaction() as connection:
        person = admit(connection, person)
        decision = connection.execute(
            "SELECT * FROM decisions WHERE person = ? AND NOT undone AND action IN ('approve', 'return') "
            "ORDER BY id DESC LIMIT 1",
            (person,),
        ).fetchone()
        if decision is None:
            return None
        annotation, now = decision["annotation"], project.now()
        if decision["action"] == "return":
            row = connection.execute("SELECT * FROM annotations WHERE id = ?", (annotation,)).fetchone()
            if row["state"] != "draft" or row["session"]:
                raise AnnotationConflictError("the annotator has already opened this video; it can no longer be undone")
            connection.execute("UPDATE annotations SET state = 'done', note = '' WHERE id = ?", (annotation,))
            _begin(connection, annotation, person, row["caption"], now)
        connection.execute("UPDATE decisions SET undone = 1 WHERE id = ?", (decision["id"],))
        connection.execute(
            "UPDATE reviews SET state = 'draft', opened = 0, updated = ? WHERE annotation = ?", (now, annotation)
        )
        return _open(connection, annotation, session)


def _begin(connection: sqlite3.Connection, annotation: int, person: str, caption: str, now: float) -> None:
    """Reserve an annotation for a reviewer; an abandoned review is taken over unchanged."""
    connection.execute(
        "INSERT INTO reviews (annotation, person, state, caption, opened, updated) VALUES (?, ?, 'draft', ?, ?, ?) "
        "ON CONFLICT (annotation) DO UPDATE SET person = excluded.person, updated = excluded.updated",
        (annotation, person, caption, now, now),
    )


def _open(connection: sqlite3.Connection, annotation: int, session: str) -> ReviewTask:
    connection.execute("UPDATE reviews SET session = ?, sequence = 0 WHERE annotation = ?", (session, annotation))
    row = connection.execute(_REVIEW, (annotation,)).fetchone()
    return ReviewTask(
        id=annotation,
        clip=clip_of_row(row),
        annotator=row["annotator"],
        annotated=row["annotated"],
        caption=row["caption"],
        rating=row["rating"],
        seconds=row["seconds"],
    )


def _own_review(connection: sqlite3.Connection, person: str, annotation: int) -> Any:
    return editable_row(connection, _REVIEW, person, annotation, "review of annotation")


def _is_returned(connection: sqlite3.Connection, person: str, annotation: int, note: str) -> bool:
    """Return whether the same request succeeded before and its answer was lost."""
    query = "SELECT 1 FROM annotations JOIN decisions ON decisions.annotation = annotations.id "
    query += "WHERE annotations.id = ? AND state = 'draft' AND note = ? "
    query += "AND action = 'return' AND decisions.person = ? AND NOT undone"
    return fits(annotation) and connection.execute(query, (annotation, note, person)).fetchone() is not None


def _store(connection: sqlite3.Connection, now: float, annotation: int, edit: Edit) -> None:
    connection.execute(
        "UPDATE reviews SET caption = ?, seconds = max(seconds, ?), updated = ?, sequence = ? WHERE annotation = ?",
        (edit.caption, edit.seconds, now, edit.sequence, annotation),
    )
