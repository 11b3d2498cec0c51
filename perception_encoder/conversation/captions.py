"""Captions, and a file of them: JSONL that grows line by line, or Parquet, whose rows are in `OUT.jsonl` at first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from perception_encoder.errors import ConfigError
from perception_encoder.files import replacing, writing
from perception_encoder.formats.tables import read_table
from perception_encoder.records import from_fields
from perception_encoder.store import ROWS_REMEDY, Records, check_rows, reading, row_file


@dataclass(frozen=True, kw_only=True)
class Caption:
    """A caption of one item."""

    id: str
    """The item's."""
    path: str
    start: float | None
    end: float | None
    caption: str
    finished: bool
    """False if the maximum number of tokens ended it."""
    model: str
    prompt: str
    digest: str = ""
    """Digest of the model's weights and media settings, in a caption file: two models may share a name."""

    @property
    def key(self) -> tuple[str, str, float | None, float | None]:
        """Identifier of the item: two tables may use one id for different files."""
        return self.id, self.path, self.start, self.end

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


@contextmanager
def caption_file(out: Path, model: str, digest: str, prompt: str) -> Iterator[Records[Caption]]:
    """Open captions in a JSONL or Parquet file, those of earlier runs included; a Parquet file is written at the end.

    Raises OutputError for captions by another model, other weights of it or another prompt, or if another process
    writes; DataError for a damaged file; ConfigError for another suffix.
    """
    if out.suffix not in (".jsonl", ".parquet"):
        raise ConfigError(f"{out} must end in .jsonl or .parquet")
    lines = out if out.suffix == ".jsonl" else out.with_name(f"{out.name}.jsonl")
    same = {"model": model, "digest": digest, "prompt": prompt}
    with row_file(lines, Caption, same) as rows:
        if lines != out and out.exists():
            with reading(out, ROWS_REMEDY):
                earlier = [from_fields(Caption, cells) for cells in read_table(out)]
            check_rows(out, earlier, same)
            new = {row.key: row for row in rows.rows}  # those of a run that was killed as it ended are in both
            rows.rows[:0] = [row for row in earlier if row.key not in new]
        yield rows
        if lines != out and lines.stat().st_size:
            with writing(out, also=(pa.ArrowException,)), replacing(out) as temporary:
                table = pa.Table.from_pylist(list(map(asdict, rows.rows)), _SCHEMA)
                pq.write_table(table, temporary, write_page_checksum=True)
            lines.unlink()


_SCHEMA = pa.schema(
    {
        **dict.fromkeys(("id", "path"), pa.string()),
        **dict.fromkeys(("start", "end"), pa.float64()),
        "caption": pa.string(),
        "finished": pa.bool_(),
        **dict.fromkeys(("model", "prompt", "digest"), pa.string()),
    }
)
