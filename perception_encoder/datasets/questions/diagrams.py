"""AI2D: questions about diagrams, with choices.

images/0.png  questions/0.png.json  ai2d_test_ids.csv   the original layout; abc_images/ has letters for labels
data/test-*.parquet                                     the hub's, with images, `options` and `answer`
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from perception_encoder.datasets.questions.question import Entry, Question, choice_question, find_file, table_entries
from perception_encoder.errors import DataError
from perception_encoder.formats.entries import quoted, read_json, read_lines
from perception_encoder.formats.media_directory import MediaDirectory

TEST_IDS = "ai2d_test_ids.csv"


def read_ai2d(root: Path, split: str) -> list[Question]:
    """Read AI2D: see the module. `split`: `test` or `train`, by the file of test ids, or `all`.

    Raises DataError for a missing or bad file, and for a question whose answer is not among its choices.
    """
    if entries := table_entries(root, split):
        return [_of_row(entry, str(row)) for row, entry in enumerate(entries)]
    if split not in ("test", "train", "all"):
        raise DataError(f"AI2D has no split {split!r}; known: test, train, all")
    directory = root / "questions"
    if not directory.is_dir():
        raise DataError(f"{root} has no questions/, and no Parquet file of the split {split!r}")
    test = set(read_lines(find_file(root, TEST_IDS))) if split != "all" else set()
    paths = sorted(directory.glob("*.json"), key=lambda path: (len(path.name), path.name))
    chosen = [path for path in paths if split == "all" or (path.name.partition(".")[0] in test) == (split == "test")]
    questions = [each for path in chosen for each in _of_file(path, MediaDirectory(root))]
    if not questions:
        raise DataError(f"{directory} holds no question of the split {split!r}")
    return questions


def _of_file(path: Path, media: MediaDirectory) -> Iterator[Question]:
    value, image = read_json(path), path.name.removesuffix(".json")
    questions = value.get("questions") if isinstance(value, dict) else None
    if not isinstance(questions, dict):
        raise DataError(f"{path}: `questions` is {quoted(questions)}; it must be an object")
    for text, fields in questions.items():
        entry = Entry(f"{path}: questions[{quoted(text)}]", fields if isinstance(fields, dict) else {})
        directory = "abc_images" if entry.fields.get("abcLabel") else "images"
        file = media.directory / directory / image
        yield choice_question(
            entry,
            identity=entry.identity("questionId"),
            question=text,
            media=(file if file.is_file() else media.directory / "images" / image,),
            choices="answerTexts",
            answer="correctAnswer",
            block=image,
        )


def _of_row(entry: Entry, row: str) -> Question:
    assert entry.image is not None
    text, block = entry.text("question"), entry.optional("image_id")
    return choice_question(
        entry, identity=row, question=text, media=(entry.image,), choices="options", answer="answer", block=block
    )
