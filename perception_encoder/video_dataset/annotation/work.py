"""The work on captions: a person's next video, autosave, submit, skip, undo; and review by a second person.

Only the browser tab that opened a video last may save it. A request that is sent twice, because the answer was lost,
takes effect once.
"""

from __future__ import annotations

import math
import sqlite3
from dataclasses import dataclass, replace
from typing import Any, Literal

from perception_encoder.errors import ConfigError, InputError, PerceptionEncoderError
from perception_encoder.video_dataset.annotation.project import AnnotationProject, ProjectClip, add_person, fits

HOLD_SECONDS = 24 * 3600.0
"""Seconds after the last change for which a video stays reserved."""
MAX_SKIPS = 2
MAX_CAPTION, _MAX_REASON = 20_000, 500
Table = Literal["annotations", "reviews"]
_CLIP = "clips.id AS clip, clips.key, tars.split, clips.caption AS original, clips.category, clips.rate"
_TASKS: dict[Table, str] = {
    "annotations": f"SELECT annotations.*, {_CLIP} FROM annotations JOIN clips ON clips.id = annotations.clip "
    "JOIN tars ON tars.id = clips.tar WHERE annotations.id = ?",
    "reviews": "SELECT reviews.*, annotations.person AS annotator, annotations.caption AS annotated, "
    f"annotations.rating, '' AS note, {_CLIP} FROM reviews JOIN annotations ON annotations.id = reviews.annotation "
    "JOIN clips ON clips.id = annotations.clip JOIN tars ON tars.id = clips.tar WHERE reviews.annotation = ?",
}
_IDS: dict[Table, str] = {"annotations": "id", "reviews": "annotation"}
_OPEN = """
SELECT clips.id, clips.caption FROM clips WHERE clips.size > 0
    AND NOT EXISTS (SELECT 1 FROM annotations WHERE clip = clips.id AND person = :person)
    AND clips.needed > (
        SELECT count(*) FROM annotations WHERE clip = clips.id
        AND (state = 'done' OR state = 'draft' AND updated > :stale)
    )
    AND :max_skips > (SELECT count(*) FROM annotations WHERE clip = clips.id AND state = 'skipped')
ORDER BY clips.id LIMIT 1
"""
_UNREVIEWED = """
SELECT annotations.id, annotations.caption FROM annotations JOIN clips ON clips.id = annotations.clip
LEFT JOIN reviews ON reviews.annotation = annotations.id
WHERE annotations.state = 'done' AND annotations.person != :person AND clips.size > 0
    AND (reviews.annotation IS NULL OR reviews.state = 'draft' AND reviews.updated < :stale)
ORDER BY annotations.id LIMIT 1
"""


class AnnotationConflictError(PerceptionEncoderError):
    """A change conflicts with another person's or another tab's."""

    status = 409


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
    """A video that a person has opened, to annotate or to review it."""

    id: int
    """Id of the annotation."""
    clip: ProjectClip
    caption: str
    """The caption with the person's changes so far."""
    rating: int | None
    """The annotator's rating of the model's caption."""
    seconds: float
    note: str = ""
    """Note from the reviewer who returned it."""
    annotator: str = ""
    annotated: str = ""
    """In a review: who annotated it, and the caption."""


def next_task(project: AnnotationProject, person: str, session: str) -> AnnotationTask | None:
    """Open the person's unfinished video, else the first free one; None if none are left.

    A video is free until it has as many annotations as it needs, or two people skipped it; drafts hold it for a day.
    """
    with project.transaction() as connection:
        person, now = add_person(connection, person), project.now()
        query = "SELECT id FROM annotations WHERE person = ? AND state = 'draft' AND clip IN "
        query += "(SELECT id FROM clips WHERE size > 0) ORDER BY opened LIMIT 1"
        row = connection.execute(query, (person,)).fetchone()
        if row is None:
            values = {"person": person, "stale": now - HOLD_SECONDS, "max_skips": MAX_SKIPS}
            clip = connection.execute(_OPEN, values).fetchone()
            if clip is None:
                return None
            row = connection.execute(
                "INSERT INTO annotations (clip, person, state, caption, opened, updated) "
                "VALUES (?, ?, 'draft', ?, ?, ?) RETURNING id",
                (clip["id"], person, clip["caption"], now, now),
            ).fetchone()
        return _open(connection, "annotations", row["id"], session)


def next_review(project: AnnotationProject, person: str, session: str) -> AnnotationTask | None:
    """Open the reviewer's unfinished review, else another person's finished annotation; None if there are none."""
    with project.transaction() as connection:
        person, now = add_person(connection, person), project.now()
        query = "SELECT annotation AS id FROM reviews JOIN annotations ON annotations.id = annotation "
        query += "JOIN clips ON clips.id = clip WHERE reviews.person = ? AND reviews.state = 'draft' AND size > 0 "
        query += "ORDER BY reviews.opened LIMIT 1"
        row = connection.execute(query, (person,)).fetchone()
        if row is None:
            row = connection.execute(_UNREVIEWED, {"person": person, "stale": now - HOLD_SECONDS}).fetchone()
            if row is None:
                return None
            _begin_review(connection, row["id"], person, row["caption"], now)
        return _open(connection, "reviews", row["id"], session)


def save(project: AnnotationProject, person: str, annotation: int, edit: Edit, table: Table = "annotations") -> None:
    """Store an unfinished caption, or with "reviews" a correction; see `Edit` for saves that arrive twice or late.

    Raises InputError for an unknown id, and AnnotationConflictError if the annotation is another person's, finished, or
    open in another tab.
    """
    with project.transaction() as connection:
        row = _editable_row(connection, table, person, annotation)
        if row["session"] == edit.session and edit.sequence <= row["sequence"]:
            return
        _check_session(row, edit.session)
        _store(connection, table, project.now(), annotation, edit)


def submit(project: AnnotationProject, person: str, annotation: int, edit: Edit) -> None:
    """Store a finished caption; ConfigError if it is empty or the model's caption is unrated, else errors as `save`."""
    _finish(project, "annotations", person, annotation, edit, "submit")


def approve(project: AnnotationProject, person: str, annotation: int, edit: Edit) -> None:
    """Approve the caption with the reviewer's corrections; ConfigError if it is empty, else errors as `save`."""
    _finish(project, "reviews", person, annotation, edit, "approve")


def skip(project: AnnotationProject, person: str, annotation: int, reason: str, edit: Edit) -> None:
    """Skip a video but keep the typed text; ConfigError without a reason, else errors as `save`."""
    _finish(project, "annotations", person, annotation, edit, "skip", _checked_reason(reason, "reason"))


def return_to_annotator(project: AnnotationProject, person: str, annotation: int, note: str, session: str) -> None:
    """Return the caption to its annotator; ConfigError without a note, else errors as `save`."""
    note = _checked_reason(note, "note")
    with project.transaction() as connection:
        query = "SELECT 1 FROM annotations JOIN decisions ON decisions.annotation = annotations.id "
        query += "WHERE annotations.id = ? AND state = 'draft' AND note = ? "
        query += "AND action = 'return' AND decisions.person = ? AND NOT undone"
        if fits(annotation) and connection.execute(query, (annotation, note, person)).fetchone():
            return  # the same request succeeded before
        _check_session(_editable_row(connection, "reviews", person, annotation), session)
        connection.execute("DELETE FROM reviews WHERE annotation = ?", (annotation,))
        connection.execute(
            "UPDATE annotations SET state = 'draft', note = ?, opened = 0, session = '', sequence = 0 WHERE id = ?",
            (note, annotation),
        )
        _record_decision(connection, project.now(), person, annotation, "return")


def undo(project: AnnotationProject, person: str, session: str) -> AnnotationTask | None:
    """Reopen the video that the person submitted or skipped last, as it was; None if there is none.

    Repeated calls go further back. AnnotationConflictError if someone has reviewed it or is reviewing it.
    """
    with project.transaction() as connection:
        decision = _undo_decision(connection, add_person(connection, person), "submit", "skip")
        if decision is None:
            return None
        annotation = decision["annotation"]
        if connection.execute("SELECT 1 FROM reviews WHERE annotation = ?", (annotation,)).fetchone():
            raise AnnotationConflictError("a reviewer has opened this video; it can no longer be undone")
        # opened 0: it comes before the video that is open now
        connection.execute(
            "UPDATE annotations SET state = 'draft', reason = '', opened = 0, updated = ? WHERE id = ?",
            (project.now(), annotation),
        )
        return _open(connection, "annotations", annotation, session)


def undo_review(project: AnnotationProject, person: str, session: str) -> AnnotationTask | None:
    """Reopen the review that the person finished last; None if there is none.

    AnnotationConflictError if the annotator has opened the returned video.
    """
    with project.transaction() as connection:
        person, now = add_person(connection, person), project.now()
        decision = _undo_decision(connection, person, "approve", "return")
        if decision is None:
            return None
        annotation = decision["annotation"]
        if decision["action"] == "return":
            row = connection.execute("SELECT * FROM annotations WHERE id = ?", (annotation,)).fetchone()
            if row["state"] != "draft" or row["session"]:
                raise AnnotationConflictError("the annotator has already opened this video; it can no longer be undone")
            connection.execute("UPDATE annotations SET state = 'done', note = '' WHERE id = ?", (annotation,))
            _begin_review(connection, annotation, person, row["caption"], now)
        connection.execute(
            "UPDATE reviews SET state = 'draft', opened = 0, updated = ? WHERE annotation = ?", (now, annotation)
        )
        return _open(connection, "reviews", annotation, session)


def add_finished(
    connection: sqlite3.Connection, now: float, clip: int, person: str, edit: Edit, skip_reason: str = ""
) -> bool:
    """Add a caption, or a skip with its reason, from elsewhere; False if it is already present.

    An approved caption may have the annotator's text or the reviewer's. AnnotationConflictError if the person has
    another finished annotation of this video.
    """
    caption, state = _tidy_caption(edit.caption), "skipped" if skip_reason else "done"
    row = connection.execute(
        "SELECT annotations.*, reviews.caption AS approved FROM annotations LEFT JOIN reviews "
        "ON reviews.annotation = annotations.id AND reviews.state = 'done' WHERE clip = ? AND annotations.person = ?",
        (clip, person),
    ).fetchone()
    if row is not None and row["state"] != "draft":
        same = caption in (row["caption"], row["approved"]) and row["rating"] == edit.rating
        if row["state"] == state and (same or state == "skipped"):
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
    _record_decision(connection, now, person, annotation, "skip" if skip_reason else "submit")
    return True


def _finish(
    project: AnnotationProject,
    table: Table,
    person: str,
    annotation: int,
    edit: Edit,
    action: Literal["submit", "skip", "approve"],
    reason: str = "",
) -> None:
    with project.transaction() as connection:
        row = _editable_row(connection, table, person, annotation)
        state = "skipped" if action == "skip" else "done"
        if action != "skip":
            edit = replace(edit, caption=_tidy_caption(edit.caption))
        is_same = row["reason"] == reason if action == "skip" else row["caption"] == edit.caption
        if row["state"] == state and row["session"] == edit.session and is_same:
            return
        _check_session(row, edit.session)
        if action != "skip" and not edit.caption:
            other = "skip the video with a reason" if action == "submit" else "return the video with a note"
            raise ConfigError(f"the caption is empty; write one, or {other}")
        if action == "submit" and edit.rating is None and row["original"]:
            raise ConfigError("the model's caption has no rating; rate it from 1 to 5")
        others = {"submit": {"note": ""}, "skip": {"reason": reason}, "approve": {}}[action]
        _store(connection, table, project.now(), annotation, edit, state=state, **others)
        _record_decision(connection, project.now(), person, annotation, action)


def _open(connection: sqlite3.Connection, table: Table, annotation: int, session: str) -> AnnotationTask:
    """Give the video to a tab; other tabs can no longer save it."""
    query = f"UPDATE {table} SET session = ?, sequence = 0 WHERE {_IDS[table]} = ?"
    connection.execute(query, (session, annotation))
    row = connection.execute(_TASKS[table], (annotation,)).fetchone()
    clip = {name: row[name] for name in ("key", "split", "original", "category", "rate")}
    names = ("caption", "rating", "seconds", "note", *(("annotator", "annotated") if table == "reviews" else ()))
    return AnnotationTask(
        id=annotation, clip=ProjectClip(id=row["clip"], **clip), **{name: row[name] for name in names}
    )


def _begin_review(connection: sqlite3.Connection, annotation: int, person: str, caption: str, now: float) -> None:
    """Reserve an annotation for a reviewer; an abandoned review is taken over unchanged."""
    connection.execute(
        "INSERT INTO reviews (annotation, person, state, caption, opened, updated) VALUES (?, ?, 'draft', ?, ?, ?) "
        "ON CONFLICT (annotation) DO UPDATE SET person = excluded.person, updated = excluded.updated",
        (annotation, person, caption, now, now),
    )


def _editable_row(connection: sqlite3.Connection, table: Table, person: str, annotation: int) -> Any:
    person = add_person(connection, person)
    name = f"annotation {annotation}" if table == "annotations" else f"review of annotation {annotation}"
    row = connection.execute(_TASKS[table], (annotation,)).fetchone() if fits(annotation) else None
    if row is None:
        raise InputError(name, "does not exist")
    if row["person"] != person:
        raise AnnotationConflictError(f"{name} belongs to {row['person']}, not to {person}")
    return row


def _check_session(row: Any, session: str) -> None:
    if row["state"] != "draft":
        raise AnnotationConflictError("this video is already finished, perhaps in another tab; reload the page")
    if row["session"] != session:
        raise AnnotationConflictError("this video was opened in another tab; continue there, or reload the page")


def _store(
    connection: sqlite3.Connection, table: Table, now: float, annotation: int, edit: Edit, **others: str
) -> None:
    values = {"caption": edit.caption, "updated": now, "sequence": edit.sequence, **others}
    if table == "annotations":
        values["rating"] = edit.rating
    columns = ", ".join(f"{name} = :{name}" for name in values)
    query = f"UPDATE {table} SET seconds = max(seconds, :seconds), {columns} WHERE {_IDS[table]} = :id"
    connection.execute(query, {**values, "seconds": min(edit.seconds, HOLD_SECONDS), "id": annotation})


def _tidy_caption(text: str) -> str:
    """Return a caption without surrounding whitespace or whitespace at the ends of lines."""
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def _checked_reason(text: str, name: str) -> str:
    text = text.strip()
    if not 1 <= len(text) <= _MAX_REASON:
        raise ConfigError(f"the {name} has {len(text)} characters; it must have 1 to {_MAX_REASON}")
    return text


def _record_decision(connection: sqlite3.Connection, now: float, person: str, annotation: int, action: str) -> None:
    connection.execute(
        "INSERT INTO decisions (person, annotation, action, time) VALUES (?, ?, ?, ?)",
        (person, annotation, action, now),
    )


def _undo_decision(connection: sqlite3.Connection, person: str, *actions: str) -> Any:
    return connection.execute(
        "UPDATE decisions SET undone = 1 WHERE id = (SELECT id FROM decisions WHERE person = ? AND NOT undone "
        "AND action IN (?, ?) ORDER BY id DESC LIMIT 1) RETURNING *",
        (person, *actions),
    ).fetchone()
