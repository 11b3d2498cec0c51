"""Embeddings on disk: shards while a run lasts, one Parquet file or clip-retrieval's folder at its end.

A run keeps its work in `OUT.parts/`: settings.json, and shards named by the items they hold. A shard is written whole
or not at all, holds whole batches, and records the failures among its items, so a killed run goes on after its last
shard, with the batches an unbroken run would have made. It goes on only with the same settings and the same inputs.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa

from perception_encoder import errors
from perception_encoder.errors import InputError, OutputError
from perception_encoder.files import holding, remove, replacing, writing
from perception_encoder.inference.formats import (
    check_target,
    read_metadata,
    to_table,
    write_folder,
    write_lance,
    write_parquet,
    write_shard,
)
from perception_encoder.inference.listing import Item
from perception_encoder.inference.pipeline import Embedding, Failure, Result
from perception_encoder.preprocess.source import one_line

_SHARD_BYTES = 64 << 20
_SHARD_SECONDS = 15.0  # the work that a kill may cost


@dataclass(frozen=True)
class Shard:
    """A finished shard, FIRST-COUNT.parquet."""

    path: Path
    first: int
    """Number of items before it."""
    count: int
    """Number of its items, failures included."""

    @classmethod
    def from_path(cls, path: Path) -> Shard:
        """Read its name."""
        first, count = path.stem.split("-")
        return cls(path, int(first), int(count))


class EmbeddingWriter:
    """Writes a run's results to `out`, going on where an earlier run with the same settings stopped.

        with EmbeddingWriter(out, settings) as writer:
            for batch in encode_items(encoder, writer.resume(items), feature):
                writer.add(batch)
            writer.finish()

    However the block is left, what has been added is saved. `out` is a .parquet file, a .lance table or, without a
    suffix, a folder in clip-retrieval's layout. Raises ConfigError for another suffix, and OutputError where `out`
    exists (unless `overwrite`), where another run writes it, where an unfinished run has other settings or other
    inputs, and where the disk is full; finished shards are kept. Where no input could be used, nothing is written.
    """

    def __init__(
        self,
        out: Path,
        settings: Mapping[str, object],
        *,
        overwrite: bool = False,
        shard_bytes: int = _SHARD_BYTES,
        shard_seconds: float = _SHARD_SECONDS,
    ) -> None:
        self.out, self.parts = out.absolute(), out.absolute().with_name(out.absolute().name + ".parts")
        self.settings: dict[str, Any] = json.loads(json.dumps(settings))
        self.failures: list[InputError] = []
        """All so far, those of earlier, interrupted runs included."""
        self._shard_bytes, self._shard_seconds = shard_bytes, shard_seconds
        self._pending: list[Result[Item]] = []
        self._pending_bytes, self._flushed_at = 0, time.monotonic()
        self._held = ExitStack()
        self.shards: list[Shard] = []
        try:
            with self._writing():
                self._open(overwrite)
        except BaseException:
            self._held.close()
            raise

    @property
    def done(self) -> int:
        """Items in finished shards, failures included."""
        return sum(shard.count for shard in self.shards)

    def __enter__(self) -> EmbeddingWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if not isinstance(error, OutputError):
                self.flush()
            if error is not None and not self.shards:  # nothing to go on from
                remove(self.parts)
        finally:
            self._held.close()

    def _open(self, overwrite: bool) -> None:
        """Make the parts, or reopen them and find the finished shards."""
        manifest = self.parts / "settings.json"
        check_target(self.out, self.settings, overwrite or manifest.is_file())
        self.parts.mkdir(parents=True, exist_ok=True)
        self._held.enter_context(holding(self.parts / "lock", f"another run is writing {self.out}"))
        resumes = manifest.is_file()
        if resumes:
            with self._reading(manifest):
                earlier = json.loads(manifest.read_text(encoding="utf-8"))
                if not isinstance(earlier, dict):
                    raise ValueError("it is no JSON object")
            self._check_settings(earlier)
        for leftover in self.parts.iterdir():  # of a run that was killed as it wrote or, without a manifest, tidied up
            if leftover.suffix == ".tmp" or (leftover.suffix == ".parquet" and not resumes):
                remove(leftover)
        if not resumes:
            with self._replacing(manifest) as temporary:
                temporary.write_text(json.dumps(self.settings, indent=2), encoding="utf-8")
        with self._reading(self.parts):
            self.shards = sorted(map(Shard.from_path, self.parts.glob("*.parquet")), key=lambda shard: shard.first)

    def _check_settings(self, earlier: dict[str, Any]) -> None:
        now = self.settings
        other = [key for key in {**earlier, **now} if earlier.get(key) != now.get(key)]
        if other:
            changes = ", ".join(f"{key} was {earlier.get(key)}, is now {now.get(key)}" for key in other)
            raise OutputError(f"the unfinished run in {self.parts} has other settings ({changes}); {self._ways_out}")

    @property
    def _ways_out(self) -> str:
        return f"repeat it as it was to finish it, or delete {self.parts} to start anew"

    def resume(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items that no finished shard holds; OutputError where they are not those the run began with."""
        items = iter(items)
        for shard in self.shards:
            with self._reading(shard.path):
                metadata = read_metadata(shard.path)
                digest = metadata["digest"]
                failures = [_failure(*each) for each in metadata["failures"]]
            if digest_of(islice(items, shard.count)) != digest:
                raise OutputError(f"the unfinished run in {self.parts} began with other inputs; {self._ways_out}")
            self.failures += failures
        return items

    def add(self, batch: Sequence[Result[Item]]) -> None:
        """Take the results of one batch; now and then this writes a shard."""
        self._pending += batch
        self.failures += [result.error for result in batch if isinstance(result, Failure)]
        self._pending_bytes += sum(result.vector.nbytes for result in batch if isinstance(result, Embedding))
        if self._pending_bytes >= self._shard_bytes or time.monotonic() - self._flushed_at >= self._shard_seconds:
            self.flush()

    def flush(self) -> None:
        """Save what has been added as a shard."""
        if not self._pending:
            return
        failures = [result.error for result in self._pending if isinstance(result, Failure)]
        metadata = {
            "digest": digest_of(result.key for result in self._pending),
            "failures": [(type(error).__name__, error.source, error.reason) for error in failures],
        }
        table = to_table([result for result in self._pending if isinstance(result, Embedding)], self.settings)
        count = len(self._pending)
        shard = Shard(self.parts / f"{self.done:012d}-{count:06d}.parquet", self.done, count)
        with self._writing(), self._replacing(shard.path) as temporary:
            write_shard(temporary, table, metadata)
        self.shards.append(shard)
        self._pending, self._pending_bytes, self._flushed_at = [], 0, time.monotonic()

    def finish(self) -> int:
        """Assemble `out` from the shards and remove them; returns the number of rows (no file where there are none)."""
        self.flush()
        with self._writing():
            rows = self.done - len(self.failures)
            if rows:
                write = {"": write_folder, ".lance": write_lance, ".parquet": write_parquet}[self.out.suffix]
                with self._replacing(self.out) as temporary:
                    write(temporary, [shard.path for shard in self.shards], self.settings)
            (self.parts / "settings.json").unlink()  # first: shards without a manifest are nobody's
            shutil.rmtree(self.parts)
        return rows

    def _writing(self) -> AbstractContextManager[None]:
        kept = f"{self.parts} keeps what is finished, and the same command goes on from there"
        return writing(self.out, kept if self.shards else "", also=(pa.ArrowException, RuntimeError))

    @contextmanager
    def _reading(self, path: Path) -> Iterator[None]:
        """Turn what reading a damaged file of the parts raises into an OutputError."""
        try:
            yield
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, pa.ArrowException) as error:
            raise OutputError(f"{path} is damaged ({one_line(error)}); delete {self.parts} to start anew") from error

    def _replacing(self, path: Path) -> AbstractContextManager[Path]:
        return replacing(path, self.parts / f"{path.name}.tmp", through_link=path == self.out)


def _failure(kind: str, source: str, reason: str) -> InputError:
    """An error as a shard's metadata have it; ValueError where it is none."""
    error = getattr(errors, kind)
    if not (isinstance(error, type) and issubclass(error, InputError)):
        raise ValueError(f"{kind} is no error of an input")
    return error(source, reason)


def digest_of(items: Iterable[Item]) -> str:
    """Identifies a run of items by what they are called and where they are."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(json.dumps([item.id, item.path, item.start, item.end, item.text]).encode())
    return digest.hexdigest()
