"""Export a project's captions as a dataset in tars, as Label Studio tasks or by clip, and import tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perception_encoder.datasets.pe_video import read_video_tar, split_of
from perception_encoder.errors import ConfigError, DataError
from perception_encoder.files import write_json
from perception_encoder.formats.entries import is_integer, list_objects, quoted, read_json
from perception_encoder.formats.tables import find_column, read_table
from perception_encoder.preprocess.source import TABLE_SUFFIXES
from perception_encoder.progress import Track, untracked
from perception_encoder.video_dataset.annotation.progress import read_refinements
from perception_encoder.video_dataset.annotation.project import FILE_NAME, AnnotationProject, add_person
from perception_encoder.video_dataset.annotation.work import AnnotationConflictError, Edit, add_finished
from perception_encoder.video_dataset.tables import OutputVideo, table_key, write_dataset

LABELING_CONFIG = """<View>
  <Video name="video" value="$video"/>
  <TextArea name="caption" toName="video" value="$caption" rows="6" maxSubmissions="1" editable="true" required="true"/>
  <Rating name="rating" toName="video" maxRating="5" required="true"/>
</View>"""
"""The interface of a Label Studio project for these tasks."""


@dataclass(frozen=True)
class ExportCounts:
    """Counts of written videos."""

    videos: int
    refined: int
    """Videos with a caption refined in this project."""


@dataclass(frozen=True)
class ImportCounts:
    """Counts of annotations in a Label Studio file."""

    added: int
    known: int
    """Annotations already in the project."""


def export_dataset(
    project: AnnotationProject,
    out: Path,
    *,
    refined_only: bool = False,
    selection: Mapping[str, Mapping[str, Any]] | None = None,
    track: Track = untracked,
) -> ExportCounts:
    """Write videos with `human_caption`, `refined_by`, `caption_rating` and `caption_reviewed`, without people's names.

    `selection`: further metadata, such as a category, by SPLIT/KEY of the only videos to write; None for all. Raises
    OutputError if `out` is not empty, and DataError for a damaged tar or if no video is left to write.
    """
    refinements = {(refinement.tar, refinement.key): refinement for refinement in read_refinements(project)}
    refined: list[str] = []
    written: list[str] = []

    def videos() -> Iterator[OutputVideo]:
        for name, tar in project.tars.items():
            for record in read_video_tar(tar):
                key, metadata = table_key(record), record.metadata
                refinement = refinements.get((name, record.key))
                if (selection is not None and key not in selection) or (refinement is None and refined_only):
                    continue
                if refinement is not None:
                    refined.append(record.key)
                    metadata = {
                        **metadata,
                        "human_caption": refinement.caption,
                        "refined_by": "human",
                        "model_caption": refinement.original or None,
                        "caption_rating": refinement.rating,
                        "caption_reviewed": refinement.reviewed,
                    }
                yield OutputVideo.of(record, {**metadata, **(selection or {}).get(key, {})}, split_of(tar))
                written.append(key)
        if not written:
            kind = " with a refined caption" if refined_only else ""
            selected = "" if selection is None else " in the selection"
            raise DataError(f"{project.data} has no video{kind}{selected}; continue with: pe annotate {project.data}")

    total = len(refinements) if refined_only else project.count()
    counts = write_dataset(out, track(videos(), "writing", total))
    return ExportCounts(sum(counts.values()), len(refined))


def export_tasks(project: AnnotationProject, path: Path, prefix: str = "") -> int:
    """Write every video with its annotations as Label Studio tasks; return the number of videos.

    `prefix`: the start of the videos' addresses, before KEY.mp4. Unfinished annotations are left out. When Label Studio
    imports an annotation, it drops `annotator` and calls `id` `import_id`: so `data` has the names by that id.
    """
    with project.reading() as connection:
        clips = connection.execute(
            "SELECT clips.*, tars.split, tars.path FROM clips JOIN tars ON tars.id = clips.tar WHERE clips.size > 0 "
            "ORDER BY clips.id"
        ).fetchall()
        rows = connection.execute(
            "SELECT annotations.*, reviews.caption AS approved FROM annotations LEFT JOIN reviews "
            "ON reviews.annotation = annotations.id AND reviews.state = 'done' WHERE annotations.state != 'draft' "
            "ORDER BY annotations.id"
        ).fetchall()
    annotations: dict[int, list[dict[str, Any]]] = {}
    annotators: dict[int, dict[str, str]] = {}
    for row in rows:
        annotations.setdefault(row["clip"], []).append(_annotation(row))
        annotators.setdefault(row["clip"], {})[str(row["id"])] = row["person"]
    tasks = [
        {
            "id": clip["id"],
            "data": {
                "video": f"{prefix}{clip['key']}.{clip['extension']}",
                **{name: clip[name] for name in ("key", "split", "caption", "category")},
                "tar": clip["path"],
                "annotators": annotators.get(clip["id"], {}),
            },
            "annotations": annotations.get(clip["id"], []),
            "predictions": [{"model_version": "model", "result": _result(clip["caption"], None)}]
            if clip["caption"]
            else [],
        }
        for clip in clips
    ]
    write_json(path, tasks)
    return len(tasks)


def import_tasks(project: AnnotationProject, path: Path) -> ImportCounts:
    """Add the annotations of a file that Label Studio exported as JSON, all or none.

    Raises DataError for a file of another form, and for a task whose video is not in the project.
    """
    tasks = read_json(path)
    if not isinstance(tasks, list):
        raise DataError(f"{path} is {quoted(tasks)}; it must be a list of tasks, as Label Studio exports with JSON")
    added = known = 0
    with project.transaction() as connection:
        rows = connection.execute(
            "SELECT clips.id, clips.key, tars.path FROM clips JOIN tars ON tars.id = clips.tar WHERE clips.size > 0"
        )
        clips = {(row["path"], row["key"]): row["id"] for row in rows}
        for number, task in enumerate(tasks):
            where = f"{path}: task {number}"
            if not isinstance(task, dict) or not isinstance(task.get("data"), dict):
                raise DataError(f"{where} is not an object with `data`; export as JSON, not as JSON-MIN")
            video = str(task["data"].get("tar")), str(task["data"].get("key"))
            if video not in clips:
                raise DataError(f"{where}: this dataset has no video {quoted(video[1])} in {quoted(video[0])}")
            for person, edit, reason in _read_annotations(task, where):
                try:
                    person = add_person(connection, person)
                    new = add_finished(connection, project.now(), clips[video], person, edit, reason)
                except (ConfigError, AnnotationConflictError) as error:
                    raise type(error)(f"{where}: {error}") from None
                added, known = added + new, known + (not new)
    return ImportCounts(added, known)


def read_corrections(data: Path, captions: str | Path | None = None) -> dict[str, str]:
    """Read corrected captions by clip, from a table or an annotation project; DataError if there are none."""
    path = Path(captions or data / FILE_NAME)
    if path.suffix in TABLE_SUFFIXES:
        rows = read_table(path)
        key = find_column(rows[0], ["video_id"], path, "clips")
        caption = find_column(rows[0], ["human_caption"], path, "captions")
        texts = {str(row[key]): text for row in rows if (text := str(row[caption] or "").strip())}
    else:
        if not path.is_file():
            remedy = f"correct captions with: pe annotate {data}, or give --captions FILE"
            raise DataError(f"{path} does not exist; {remedy}")
        with closing(AnnotationProject(data, path)) as project:
            texts = {refinement.key: refinement.caption for refinement in read_refinements(project)}
    if not texts:
        raise DataError(f"{path} has no corrected caption; continue with: pe annotate {data}")
    return texts


def _annotation(row: Any) -> dict[str, Any]:
    caption = row["caption"] if row["approved"] is None else row["approved"]
    return {
        "id": row["id"],
        "annotator": row["person"],
        "result": [] if row["state"] == "skipped" else _result(caption, row["rating"]),
        "was_cancelled": row["state"] == "skipped",
        "ground_truth": row["approved"] is not None,
        "lead_time": row["seconds"],
    }


def _result(caption: str, rating: int | None) -> list[dict[str, Any]]:
    text = {"from_name": "caption", "to_name": "video", "type": "textarea", "value": {"text": [caption]}}
    stars = {"from_name": "rating", "to_name": "video", "type": "rating", "value": {"rating": rating}}
    return [text] if rating is None else [text, stars]


def _read_annotations(task: Mapping[str, Any], where: str) -> Iterator[tuple[str, Edit, str]]:
    for number, annotation in enumerate(list_objects(task, "annotations", where)):
        entry = f"{where}: annotations[{number}]"
        person = _person(annotation, task["data"].get("annotators"), entry)
        seconds = annotation.get("lead_time")
        seconds = float(seconds) if isinstance(seconds, (int, float)) and 0 <= seconds < 1e6 else 0.0
        if annotation.get("was_cancelled") is True:
            yield person, Edit(caption="", seconds=seconds), "skipped in Label Studio"
            continue
        text = rating = None
        for part in list_objects(annotation, "result", entry):
            value = part.get("value")
            if isinstance(value, dict):
                text, rating = value.get("text", text), value.get("rating", rating)
        text = "\n".join(map(str, text)) if isinstance(text, list) else text
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"{entry} has no text from a text area")
        if rating is not None and (not is_integer(rating, 1) or rating > 5):
            raise DataError(f"{entry} has the rating {quoted(rating)}; it must be from 1 to 5")
        yield person, Edit(caption=text, rating=rating, seconds=seconds), ""


def _person(annotation: Mapping[str, Any], stored: Any, where: str) -> str:
    by, imported = annotation.get("completed_by"), str(annotation.get("import_id"))
    names = (
        annotation.get("annotator"),
        stored.get(imported) if isinstance(stored, dict) else None,
        by.get("email") if isinstance(by, dict) else None,
        f"label-studio-{by}" if is_integer(by) else None,
    )
    for name in names:
        if isinstance(name, str) and name:
            return name
    raise DataError(f"{where} does not name its annotator")
