"""The answers of a model as lines of JSON, written one by one, so that an interrupted evaluation goes on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from perception_encoder.datasets.questions.question import Corners
from perception_encoder.errors import DataError
from perception_encoder.formats.entries import are_numbers, text_field
from perception_encoder.formats.tables import append_json_lines, read_appended_lines


@dataclass(frozen=True, kw_only=True)
class AnswerRecord:
    """What a model answered to one question."""

    model: str
    digest: str = ""
    """Of the model's weights and of how it sees, by `digest_of`: two models may have one name."""
    task: str
    """A name of `TASKS`, and how it was put if that is not the default."""
    id: str
    """The question's."""
    prompt: str
    """The whole text that the model read."""
    media: str = ""
    """A digest of the images or the video that it saw; empty if it saw none."""
    prediction: str
    answers: tuple[str, ...] = ()
    """What is right, for readers: texts, or a choice's text."""
    box: Corners | None = None
    """The right box, in thousandths of the image."""
    score: float | None = None
    """Of this answer; None for captions, which are scored together."""


def read_records(path: Path, model: str, digest: str, task: str) -> dict[str, AnswerRecord]:
    """Return a model's answers by the questions' ids, of two to one question the later; none if the file is missing.

    A last line that was cut off is removed from the file. Raises DataError, with the line, for a line that is not a
    record, and for one of another model, of other weights of it, or of another task.
    """
    records = {}
    for where, fields in read_appended_lines(path):
        for name, expected in (("model", model), ("task", task)):
            if text_field(fields, name, where) != expected:
                raise DataError(f"{where}: answers of the {name} {fields[name]!r}, not {expected!r}; give another file")
        if fields.get("digest") != digest:
            reason = f"answers of {model!r} with other weights or other tiles; give another file"
            raise DataError(f"{where}: {reason}")
        prediction, box = fields.get("prediction"), fields.get("box")
        if not isinstance(prediction, str) or not (box is None or (are_numbers(box) and len(box) == 4)):
            raise DataError(f"{where}: `prediction` must be a text and `box` null or four numbers; remove the line")
        identity, prompt = text_field(fields, "id", where), text_field(fields, "prompt", where)
        corners = None if box is None else (float(box[0]), float(box[1]), float(box[2]), float(box[3]))
        records[identity] = AnswerRecord(
            model=model,
            digest=digest,
            task=task,
            id=identity,
            prompt=prompt,
            media=str(fields.get("media")),
            prediction=prediction,
            box=corners,
        )
    return records


def append_records(path: Path, records: Iterable[AnswerRecord]) -> None:
    """Add records to a file, whose directory is made; OutputError if it cannot be written."""
    append_json_lines(path, map(asdict, records))
