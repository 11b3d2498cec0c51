"""Describe many images, videos and documents, some at a time, and write the captions to a file that a run resumes.

JSONL grows by a line for each caption. Parquet is written at the end; until then its rows are lines of `OUT.jsonl`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from perception_encoder.errors import ConfigError, InputError, OutputError, detached
from perception_encoder.files import replacing, writing
from perception_encoder.formats.tables import append_json_lines, read_appended_lines, read_table
from perception_encoder.inference.conversation.media import MediaOptions, open_item_media
from perception_encoder.inference.listing import Item
from perception_encoder.preprocess.conversation import CAPTION_PROMPT, Generator, Message, Reply, Sampling, ask
from perception_encoder.records import from_fields


@dataclass(frozen=True, kw_only=True)
class CaptionRow:
    """A caption of one item."""

    id: str
    """The item's."""
    path: str
    start: float | None
    end: float | None
    caption: str
    finished: bool
    """False if it was cut off at the most tokens."""
    model: str
    prompt: str
    digest: str = ""
    """Of the model's weights and of how it sees, by `generator_digest`: two models may have one name."""

    @property
    def key(self) -> tuple[str, str, float | None, float | None]:
        """What tells its item from all others: two tables may give one id to two files."""
        return self.id, self.path, self.start, self.end


def caption_items(
    generator: Generator,
    items: Iterable[Item],
    prompt: str = CAPTION_PROMPT,
    sampling: Sampling | None = None,
    media: MediaOptions | None = None,
    batch_size: int = 8,
    digest: str = "",
) -> Iterator[list[CaptionRow | InputError]]:
    """Yield the captions of items in order, a list a batch, with an InputError for an item that cannot be described.

    `digest`: of the model, for rows that are stored.
    """
    items = iter(items)
    while batch := list(islice(items, batch_size)):
        opened = [_conversation(item, prompt, media) for item in batch]
        conversations = [each for each in opened if not isinstance(each, InputError)]
        replies = iter(_replies(generator, conversations, sampling))
        results: list[CaptionRow | InputError] = []
        for item, conversation in zip(batch, opened, strict=True):
            reply = conversation if isinstance(conversation, InputError) else next(replies)
            if isinstance(reply, InputError):
                results.append(detached(reply))
            elif isinstance(reply, ConfigError):
                results.append(InputError(item.name, str(reply)))
            else:
                results.append(
                    CaptionRow(
                        id=item.id,
                        path=item.path,
                        start=item.start,
                        end=item.end,
                        caption=reply.text.strip(),
                        finished=reply.finished,
                        model=generator.name,
                        prompt=prompt,
                        digest=digest,
                    )
                )
        yield results


def _conversation(item: Item, prompt: str, media: MediaOptions | None) -> list[Message] | InputError:
    try:
        return ask(prompt, open_item_media(item, media))
    except InputError as error:
        return error


def _replies(
    generator: Generator, conversations: Sequence[Sequence[Message]], sampling: Sampling | None
) -> list[Reply | ConfigError]:
    """Answers in order; if one conversation does not fit the context, the others are answered without it."""
    try:
        return list(generator.generate(conversations, sampling))
    except ConfigError as error:
        if len(conversations) == 1:
            return [error]
        return [reply for each in conversations for reply in _replies(generator, [each], sampling)]


class CaptionFile:
    """Captions in a JSONL or Parquet file, those of earlier runs included.

    Attributes: `rows` (by `CaptionRow.key`), `out`. Raises OutputError for captions by another model, by other weights
    of it or for another prompt, and ConfigError for another suffix.
    """

    def __init__(self, out: Path, model: str, digest: str, prompt: str) -> None:
        if out.suffix not in (".jsonl", ".parquet"):
            raise ConfigError(f"{out} must end in .jsonl or .parquet")
        self.out = out
        self._lines = out if out.suffix == ".jsonl" else out.with_name(f"{out.name}.jsonl")
        tables = [read_table(out)] if out.suffix == ".parquet" and out.exists() else []
        tables.append([cells for _, cells in read_appended_lines(self._lines)])
        self.rows: dict[tuple[str, str, float | None, float | None], CaptionRow] = {}
        for cells in (cells for table in tables for cells in table):
            try:
                row = from_fields(CaptionRow, cells)
            except ValueError as wrong:
                reason = f"has other columns than captions have ({wrong})"
                raise OutputError(f"{out} {reason}; choose another name") from None
            if (row.model, row.prompt) != (model, prompt):
                raise OutputError(
                    f"{out} has captions by {row.model!r} for {row.prompt!r}, not by {model!r} for {prompt!r}; "
                    "choose another name"
                )
            if row.digest != digest:
                raise OutputError(f"{out} has captions by other weights of {model!r}; choose another name")
            self.rows[row.key] = row

    def missing(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items that have no caption so far."""
        return (item for item in items if (item.id, item.path, item.start, item.end) not in self.rows)

    def add(self, rows: Sequence[CaptionRow]) -> None:
        """Write captions; OutputError if that fails."""
        append_json_lines(self._lines, map(asdict, rows))
        self.rows |= {row.key: row for row in rows}

    def finish(self) -> None:
        """Write the Parquet file, if that is what `out` is."""
        if self.out.suffix == ".parquet" and self._lines.exists():
            with writing(self.out, also=(pa.ArrowException,)), replacing(self.out) as temporary:
                pq.write_table(pa.Table.from_pylist([asdict(row) for row in self.rows.values()], _SCHEMA), temporary)
            self._lines.unlink()


_SCHEMA = pa.schema(
    {
        **dict.fromkeys(("id", "path"), pa.string()),
        **dict.fromkeys(("start", "end"), pa.float64()),
        "caption": pa.string(),
        "finished": pa.bool_(),
        **dict.fromkeys(("model", "prompt", "digest"), pa.string()),
    }
)
