"""Write documents to files: images, LLaVA-style conversations, and word boxes.

    OUT/SPLIT/images/00000/00000007.jpg   the image of document 7, in directories of 1,000
    OUT/SPLIT/conversations.jsonl         a line a document: `id`, `image`, `conversations`
    OUT/SPLIT/words.jsonl                 a line a document: boxes of words and answers, printed values, layout
    OUT/SPLIT/settings.json               the settings, so that only the same command goes on with them

A document depends on the seed, the split and its number alone, so the number of processes changes no byte, and a larger
count goes on after the last document. A line is written after its image, and half a line is dropped on resuming.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from perception_encoder.errors import ConfigError, OutputError
from perception_encoder.files import holding, replacing, writing
from perception_encoder.formats.shards import json_bytes
from perception_encoder.progress import Track, untracked
from synthetic.documents.document import Document, document

JPEG_QUALITY = 95
PER_DIRECTORY = 1000
AT_ONCE = 16
"""Documents that a process draws at a time."""


@dataclass(frozen=True, kw_only=True)
class DocumentsConfig:
    """Settings of a dataset of documents; see `document` for all but `count`, `seed` and `kinds`."""

    count: int = 1000
    seed: int = 0
    split: str = "train"
    size: int = 448
    """Side of the images, in pixels."""
    kinds: tuple[str, ...] = ()
    """Kinds that take turns; empty: random ones of all."""
    look: str | None = None
    lines: int | None = None
    text_height: float | None = None

    def __post_init__(self) -> None:
        if self.count < 1 or self.seed < 0:
            raise ConfigError(f"count is {self.count} and seed {self.seed}; they must be at least 1 and 0")

    def draw(self, number: int) -> Document:
        """Draw the document of a number."""
        kind = self.kinds[number % len(self.kinds)] if self.kinds else None
        seed = self.seed, number
        height = self.text_height
        return document(seed, kind, self.split, self.size, look=self.look, lines=self.lines, text_height=height)


class WrittenDocuments(NamedTuple):
    """A dataset of documents on disk."""

    directory: Path
    documents: int
    before: int
    """Documents that were there before."""


def write_documents(
    out: Path, config: DocumentsConfig, jobs: int | None = None, track: Track = untracked
) -> WrittenDocuments:
    """Write a dataset to `out/SPLIT`, or go on with it; `jobs`: processes, by default the CPU's cores.

    Raises ConfigError for settings that are not allowed, MissingGroupError without the fonts, and
    OutputError if the directory holds something else or cannot be written.
    """
    config.draw(0)  # raises the errors of the settings before anything is written
    directory = out / config.split
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
        with holding(directory / ".lock", f"{directory} is being written by another process; wait for it"):
            _check_settings(directory, config)
            tables = directory / "conversations.jsonl", directory / "words.jsonl"
            before = min(map(_count_lines, tables))
            for table in tables:
                _cut(table, before)
            numbers = range(before, config.count)
            rows = track(_draw_all(config, numbers, jobs), "drawing", len(numbers))
            with tables[0].open("ab") as conversations, tables[1].open("ab") as words:
                for number, (image, *lines) in zip(numbers, rows, strict=True):
                    path = directory / image_path(number)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(image)
                    for file, line in zip((conversations, words), lines, strict=True):
                        file.write(line + b"\n")
                        file.flush()
    return WrittenDocuments(directory, max(before, config.count), before)


def image_path(number: int) -> str:
    """Return the path of a document's image below its split's directory."""
    return f"images/{number // PER_DIRECTORY:05}/{number:08}.jpg"


def _check_settings(directory: Path, config: DocumentsConfig) -> None:
    """Write the settings of a new dataset; OutputError unless those of an old one are the same, but for the count."""
    path = directory / "settings.json"
    settings = json.loads(json_bytes({key: value for key, value in asdict(config).items() if key != "count"}))
    if path.exists():
        if json.loads(path.read_bytes()) != settings:
            raise OutputError(f"{directory} has documents of other settings; choose another directory, or remove it")
    elif [item for item in directory.iterdir() if item.name != ".lock"]:
        raise OutputError(f"{directory} is not empty and has no documents; choose another directory, or remove it")
    else:
        with replacing(path) as temporary:
            temporary.write_bytes(json_bytes(settings))


def _count_lines(path: Path) -> int:
    """The number of whole lines."""
    if not path.exists():
        return 0
    with path.open("rb") as file:
        return sum(line.endswith(b"\n") for line in file)


def _cut(path: Path, lines: int) -> None:
    """Leave the first lines of a file only."""
    with path.open("a+b") as file:
        file.seek(0)
        file.truncate(sum(len(file.readline()) for _ in range(lines)))


def _draw_all(config: DocumentsConfig, numbers: range, jobs: int | None) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Draw documents in order; with one job in this process."""
    jobs = min(jobs or os.cpu_count() or 1, -(-len(numbers) // AT_ONCE))
    if jobs <= 1:
        yield from (_draw_one(config, number) for number in numbers)
        return
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(_draw_one, [config] * len(numbers), numbers, chunksize=AT_ONCE)


def _draw_one(config: DocumentsConfig, number: int) -> tuple[bytes, bytes, bytes]:
    """Return the image's file, and the document's lines of both tables."""
    drawn = config.draw(number)
    stream = io.BytesIO()
    drawn.image.save(stream, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    key = f"{config.split}-{number:08}"
    turns: list[dict[str, str]] = []
    for question in drawn.questions:
        turns += [{"from": "human", "value": question.question}, {"from": "gpt", "value": question.answer}]
    turns[0] = {"from": "human", "value": f"<image>\n{turns[0]['value']}"}
    talk = {"id": key, "image": image_path(number), "conversations": turns}
    return stream.getvalue(), json_bytes(talk), json_bytes({"id": key, "image": image_path(number), **_facts(drawn)})


def _facts(drawn: Document) -> dict[str, Any]:
    """The fields of a document in `words.jsonl`."""
    return {
        "width": drawn.image.width,
        "height": drawn.image.height,
        "kind": drawn.kind,
        "layout": drawn.layout,
        "look": drawn.look,
        "split": drawn.split,
        "fonts": drawn.fonts,
        "content": drawn.content,
        "words": [{"text": word.text, "box": word.box} for word in drawn.words],
        "questions": [
            {
                "question": question.question,
                "answer": question.answer,
                "box": question.answer_box,
                "task": question.task,
            }
            for question in drawn.questions
        ],
    }
