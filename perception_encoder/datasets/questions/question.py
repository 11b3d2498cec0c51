"""A question of any dataset, and helpers to find its fields, annotation files and tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perception_encoder.errors import DataError
from perception_encoder.formats.entries import id_field, list_objects, quoted, read_json, text_field, text_list
from perception_encoder.formats.media_directory import MediaSource
from perception_encoder.formats.tables import DEPTHS, MEDIA_COLUMNS, read_image_table, split_tables

Corners = tuple[float, float, float, float]
"""Left, top, right and bottom."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question about images or a video, with the reference for its answer."""

    id: str
    """Unique within its dataset and split."""
    question: str
    """Empty for a caption; the phrase to find for a box."""
    media: tuple[MediaSource, ...]
    """One or more images, or one video, not yet opened."""
    frames: bool = False
    """Whether `media` holds all frames of one video in order; a model sees some of them."""
    answers: tuple[str, ...] = ()
    """Correct answers, one per person asked, or captions; empty for choices and boxes."""
    choices: tuple[str, ...] = ()
    correct: int | None = None
    """0-based index of the correct choice."""
    box: Corners | None = None  # in pixels of the image
    group: str = ""
    """A part of the dataset with its own score: MVBench's task, ChartQA's `human` or `augmented`."""
    block: str = ""
    """Name of the image or video, if known: questions about the same one are resampled together."""


@dataclass(frozen=True)
class QuestionEntry:
    """A question's entry in its file."""

    where: str
    fields: Mapping[str, Any]
    media: tuple[MediaSource, ...] = ()
    """The image, if it is known."""

    def first(self, names: Sequence[str]) -> str:
        """Return the first of these names that is a field; the first name if none is."""
        return next((name for name in names if self.fields.get(name) is not None), names[0])

    def text(self, *names: str) -> str:
        """Return the non-empty string under the first of these names; DataError otherwise."""
        return text_field(self.fields, self.first(names), self.where)

    def identity(self, *names: str) -> str:
        """Return the integer or string under the first of these names, as a string; DataError otherwise."""
        return str(id_field(self.fields, self.first(names), self.where))

    def optional(self, *names: str) -> str:
        """Return `identity`, or an empty string if the field is missing."""
        return self.identity(*names) if self.fields.get(self.first(names)) is not None else ""

    def seconds(self, name: str) -> float:
        """Return the time in this field; DataError for anything else."""
        value = self.fields.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e6:
            raise DataError(f"{self.where}: `{name}` is {quoted(value)}; it must be a number of seconds")
        return float(value)

    def answers(self, *names: str) -> tuple[str, ...]:
        """Return answers from a string, a list of strings, or objects with `answer`; DataError if there are none."""
        name = self.first(names)
        value = self.fields.get(name)
        values = [value] if isinstance(value, str) else value
        if isinstance(values, list):
            values = [item.get("answer") if isinstance(item, dict) else item for item in values]
        if not isinstance(values, list) or not all(isinstance(entry, str) for entry in values) or not any(values):
            raise DataError(f"{self.where}: `{name}` is {quoted(value)}; a question needs at least one answer")
        return tuple(values)


def choice_question(
    entry: QuestionEntry, *, identity: str, choices: str, answer: str, question: str, **others: Any
) -> Question:
    """Return a question with choices; `choices` and `answer` are field names, and the answer an index or a choice.

    `others`: further fields of the question. Raises DataError if there are fewer than two choices, or if the answer is
    none of them.
    """
    texts = text_list(entry.fields.get(choices), f"{entry.where}: `{choices}`")
    value = entry.fields.get(answer)
    index = value if isinstance(value, int) and not isinstance(value, bool) else -1
    if isinstance(value, str):
        index = texts.index(value) if value in texts else int(value) if value.isascii() and value.isdigit() else -1
    if not 0 <= index < len(texts) or len(texts) < 2:
        raise DataError(f"{entry.where}: `{answer}` is {quoted(value)}, which is not among the choices {quoted(texts)}")
    return Question(id=identity, question=question, choices=tuple(texts), correct=index, **others)


def json_entries(path: Path, name: str = "") -> Iterator[QuestionEntry]:
    """Yield the objects of a JSON file's list, or of its list `name`; DataError for anything else."""
    value = read_json(path)
    if name and not isinstance(value, dict):
        raise DataError(f"{path} is {quoted(value)}; it must be an object with a list `{name}`")
    objects = list_objects(value if name else {"entries": value}, name or "entries", path)
    yield from (QuestionEntry(f"{path}: {name}[{index}]", item) for index, item in enumerate(objects))


def table_entries(root: Path, split: str, directory: str = "") -> list[QuestionEntry]:
    """Return the rows of a split's Parquet files, none without such files: see `split_tables`."""
    paths = split_tables(root, split, directory)
    rows = (row for path in paths for row in read_image_table(path, MEDIA_COLUMNS))
    return [QuestionEntry(where, cells, (source,)) for where, cells, source in rows]


def find_file(root: Path, *patterns: str) -> Path:
    """Return the file below a directory that matches the first of some patterns with a match.

    DataError if none does, or several do.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a directory; give the one that holds {' or '.join(patterns)}")
    for pattern in patterns:
        if paths := sorted(path for depth in DEPTHS for path in root.glob(depth + pattern)):
            if len(paths) > 1:
                raise DataError(f"{root} has several files {pattern}: {', '.join(map(str, paths))}; leave one")
            return paths[0]
    raise DataError(f"{root} has no {' or '.join(patterns)}, and no Parquet file of this split")
