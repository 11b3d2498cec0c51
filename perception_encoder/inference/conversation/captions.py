"""Captions, and a file of them: JSONL that grows line by line, or Parquet, whose rows are in `OUT.jsonl` at first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from perception_encoder.errors import ConfigError, OutputError
from perception_encoder.files import replacing, writing
from perception_encoder.formats.tables import append_json_lines, read_appended_lines, read_table
from perception_encoder.inference.listing import Item
from perception_encoder.records import from_fields


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


class CaptionFile:
    """Captions in a JSONL or Parquet file, including those of earlier runs.

    Attributes: `rows` (by `Caption.key`), `out`, `digest`. Raises OutputError for captions by another model, other
    weights of it or another prompt, and ConfigError for another suffix.
    """

    def __init__(self, out: Path, model: str, digest: str, prompt: str) -> None:
        if out.suffix not in (".jsonl", ".parquet"):
            raise ConfigError(f"{out} must end in .jsonl or .parquet")
        self.out, self.digest = out, digest
        self._lines = out if out.suffix == ".jsonl" else out.with_name(f"{out.name}.jsonl")
        tables = [read_table(out)] if out.suffix == ".parquet" and out.exists() else []
        tables.append([cells for _, cells in read_appended_lines(self._lines)])
        self.rows: dict[tuple[str, str, float | None, float | None], Caption] = {}
        for cells in (cells for table in tables for cells in table):
            try:
                row = from_fields(Caption, cells)
            except ValueError as wrong:
                reason = f"does not have the columns of captions ({wrong})"
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
        """Yield the items without a caption so far."""
        return (item for item in items if (item.id, item.path, item.start, item.end) not in self.rows)

    def add(self, rows: Sequence[Caption]) -> None:
        """Write captions; OutputError if that fails."""
        append_json_lines(self._lines, map(asdict, rows))
        self.rows |= {row.key: row for row in rows}

    def finish(self) -> None:
        """Write the Parquet file if `out` is one."""
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
