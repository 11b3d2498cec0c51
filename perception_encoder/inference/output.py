"""Embeddings on disk: parts during a run, one file, table or directory at its end.

`OUT.parts/` holds settings.json and parts named by their items. A part is written whole or not at all and holds whole
batches, so a killed run resumes after its last part with the batches that an unbroken run would have made.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain, islice, repeat
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import pyarrow as pa

from perception_encoder.errors import DataError, InputError, OutputError, one_line
from perception_encoder.files import file_state, holding, make_directory, remove, replacing, write_json, writing
from perception_encoder.formats.tars import TarMember
from perception_encoder.inference.listing import Item, check_paths, list_items
from perception_encoder.inference.load import ModelLike, as_encoder
from perception_encoder.inference.model_spec import ModelSpec, PrecisionChoice
from perception_encoder.inference.output_formats import (
    check_target,
    read_part_metadata,
    to_table,
    write_embeddings,
    write_part,
)
from perception_encoder.inference.pipeline import Embedding, EncodingResult, Failure, encode_items, is_text
from perception_encoder.preprocess.source import as_paths
from perception_encoder.progress import Track, untracked

_PART_BYTES = 64 << 20
_PART_SECONDS = 15.0  # the work that a kill may cost


@dataclass(frozen=True, kw_only=True)
class EmbedReport:
    """The result of `embed`."""

    out: Path
    model: str
    rows: int
    """Number of embeddings in `out`; without any, `out` is not written."""
    encoded: int
    """Inputs that this run encoded or skipped; an earlier, interrupted run finished the others."""
    seconds: float
    skipped: tuple[InputError, ...]
    left_out: Mapping[str, int]
    """Number of other files in the directories, by suffix."""

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        skipped = [error.to_dict() for error in self.skipped]
        return {**vars(self), "out": str(self.out), "skipped": skipped, "left_out": dict(self.left_out)}


def embed(
    media: str | Path | Iterable[str | Path],
    out: str | Path,
    *,
    model: ModelLike = None,
    layer: int | None = None,
    pool: Literal["attn", "cls", "mean", "tokens"] | None = None,
    normalize: bool = True,
    frames: int = 8,
    overwrite: bool = False,
    exclude: Sequence[str] = (),
    precision: PrecisionChoice = "auto",
    dimensions: int | None = None,
    trust_remote_code: bool = False,
    progress: Track = untracked,
) -> EmbedReport:
    """Embed images, videos and texts into a file; repeating an interrupted call resumes it.

        pe.embed("photos", "photos.parquet", model="PE-Core-L14-336")

    `media`: images, videos, directories, globs, tables of paths or texts, tars, URLs. `out`: a .parquet file, a .lance
    table, or a directory in clip-retrieval's layout. `model`: an encoder, or its name or path; by default the default
    model (see `pe models`). `layer`, `pool`, `normalize`, `frames`: see `Encoder.encode`. `exclude`: patterns of files
    in directories to leave out, in gitignore's syntax, in addition to `.peignore` files. `precision`, `dimensions`,
    `trust_remote_code`: see `load`. Unreadable inputs are skipped and reported. Raises DataError without inputs,
    MediaNotFoundError for a missing path, ConfigError, OutputError (see `EmbeddingWriter`), and what loading the model
    raises.
    """
    paths, out = as_paths(media), Path(out)
    check_paths(paths)
    first = next(list_items(paths, excluded=exclude), None)
    if first is None:
        which = " that are not excluded" if exclude else ""
        raise DataError(f"no images, videos or texts{which} in {', '.join(map(str, paths))}")
    keywords = ModelSpec(
        precision=precision, dimensions=dimensions, layer=layer, pool=pool, trust_remote_code=trust_remote_code
    )
    encoder = as_encoder(model, keywords)
    feature = encoder.feature(normalize=normalize, frames=frames)
    total = 0 if progress is untracked else sum(1 for _ in list_items(paths, excluded=exclude))
    started, left_out = time.perf_counter(), Counter[str]()
    if not is_text(first) and (overwrite or not out.exists()):
        encoder.runtime.prepare(feature.executed)
    with EmbeddingWriter(out, encoder.describe(feature), overwrite=overwrite) as writer:
        earlier, items = writer.done, writer.resume(list_items(paths, left_out, exclude))

        def write() -> Iterator[None]:
            for batch in encode_items(encoder, items, feature):
                writer.add(batch)
                yield from repeat(None, len(batch))

        for _ in progress(chain(repeat(None, earlier), write()), "embedding", total):
            pass
        rows = writer.finish()
    return EmbedReport(
        out=out,
        model=encoder.name,
        rows=rows,
        encoded=rows + len(writer.failures) - earlier,
        seconds=time.perf_counter() - started,
        skipped=tuple(writer.failures),
        left_out=left_out,
    )


class EmbeddingWriter:
    """Writes a run's results to `out` and resumes an earlier run with the same settings.

        with EmbeddingWriter(out, settings) as writer:
            for batch in encode_items(encoder, writer.resume(items), feature):
                writer.add(batch)
            writer.finish()

    However the block is left, added results are saved. `out` is a .parquet file, a .lance table or, without a suffix, a
    directory in clip-retrieval's layout. Raises ConfigError for another suffix, and OutputError if `out` exists
    (unless `overwrite`), if another run writes it, if an unfinished run has other settings or other inputs, and if the
    disk is full; finished parts stay. If no input could be used, nothing is written.
    """

    def __init__(
        self,
        out: Path,
        settings: Mapping[str, object],
        *,
        overwrite: bool = False,
        part_bytes: int = _PART_BYTES,
        part_seconds: float = _PART_SECONDS,
    ) -> None:
        self.out = out.absolute()
        self.directory = self.out.with_name(self.out.name + ".parts")
        self.settings: dict[str, Any] = json.loads(json.dumps(settings))
        self.failures: list[InputError] = []
        """All so far, including those of earlier, interrupted runs."""
        self._part_bytes, self._part_seconds = part_bytes, part_seconds
        self._pending: list[EncodingResult[Item]] = []
        self._pending_bytes, self._flushed_at = 0, time.monotonic()
        self._lock = ExitStack()
        self.parts: dict[Path, int] = {}
        """Finished parts, FIRST-COUNT.parquet in order, with their numbers of items, including failures."""
        try:
            with self._writing():
                self._open(overwrite)
        except BaseException:
            self._lock.close()
            raise

    @property
    def done(self) -> int:
        """Number of items in finished parts, including failures."""
        return sum(self.parts.values())

    def __enter__(self) -> EmbeddingWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if not isinstance(error, OutputError):
                self.flush()
            if error is not None and not self.parts:  # nothing to resume from
                remove(self.directory)
        finally:
            self._lock.close()

    def _open(self, overwrite: bool) -> None:
        """Create the directory of parts, or reopen it and list the finished parts."""
        manifest = self.directory / "settings.json"
        check_target(self.out, self.settings, overwrite or manifest.is_file())
        make_directory(self.directory)
        self._lock.enter_context(holding(self.directory / "lock", f"another run is writing {self.out}"))
        resumes = manifest.is_file()
        if resumes:
            with self._reading(manifest):
                earlier = json.loads(manifest.read_text(encoding="utf-8"))
                if not isinstance(earlier, dict):
                    raise ValueError("it is not a JSON object")
            self._check_settings(earlier)
        for leftover in self.directory.iterdir():  # of a killed run or, without a manifest, a finished one
            if leftover.suffix == ".tmp" or (leftover.suffix == ".parquet" and not resumes):
                remove(leftover)
        if not resumes:
            write_json(manifest, self.settings)
        with self._reading(self.directory):
            self.parts = {path: int(path.stem.partition("-")[2]) for path in sorted(self.directory.glob("*.parquet"))}

    def _check_settings(self, earlier: dict[str, Any]) -> None:
        now = self.settings
        other = [key for key in {**earlier, **now} if earlier.get(key) != now.get(key)]
        if other:
            changes = ", ".join(f"{key} was {earlier.get(key)}, is now {now.get(key)}" for key in other)
            raise OutputError(
                f"the unfinished run in {self.directory} has other settings ({changes}); {self._ways_out}"
            )

    @property
    def _ways_out(self) -> str:
        return f"rerun it with those to finish it, or delete {self.directory} to start over"

    def resume(self, items: Iterable[Item]) -> Iterator[Item]:
        """Return the items that no finished part holds; OutputError if the run began with other items."""
        items = iter(items)
        for part, count in self.parts.items():
            with self._reading(part):
                metadata = read_part_metadata(part)
                digest = metadata["digest"]
                failures = [InputError(*failure) for failure in metadata["failures"]]
            if _digest_of(islice(items, count)) != digest:
                raise OutputError(f"the unfinished run in {self.directory} began with other inputs; {self._ways_out}")
            self.failures += failures
        return items

    def add(self, batch: Sequence[EncodingResult[Item]]) -> None:
        """Add the results of one batch; writes a part from time to time."""
        self._pending += batch
        self.failures += [result.error for result in batch if isinstance(result, Failure)]
        self._pending_bytes += sum(result.vector.nbytes for result in batch if isinstance(result, Embedding))
        if self._pending_bytes >= self._part_bytes or time.monotonic() - self._flushed_at >= self._part_seconds:
            self.flush()

    def flush(self) -> None:
        """Save added results as a part."""
        if not self._pending:
            return
        failures = [result.error for result in self._pending if isinstance(result, Failure)]
        metadata = {
            "digest": _digest_of(result.key for result in self._pending),
            "failures": [(error.source, error.reason) for error in failures],
        }
        table = to_table([result for result in self._pending if isinstance(result, Embedding)], self.settings)
        count = len(self._pending)
        part = self.directory / f"{self.done:012d}-{count:06d}.parquet"
        with self._writing(), self._replacing(part) as temporary:
            write_part(temporary, table, metadata)
        self.parts[part] = count
        self._pending, self._pending_bytes, self._flushed_at = [], 0, time.monotonic()

    def finish(self) -> int:
        """Assemble `out` from the parts and remove them; return the number of rows (no rows, no file)."""
        self.flush()
        with self._writing():
            rows = self.done - len(self.failures)
            if rows:
                with self._replacing(self.out) as temporary:
                    write_embeddings(temporary, self.out.suffix, list(self.parts), self.settings)
            (self.directory / "settings.json").unlink()  # first: parts without a manifest are nobody's
            shutil.rmtree(self.directory)
        return rows

    def _writing(self) -> AbstractContextManager[None]:
        note = f"{self.directory} holds the finished part, and the same command resumes it"
        return writing(self.out, note if self.parts else "", also=(pa.ArrowException, RuntimeError))

    @contextmanager
    def _reading(self, path: Path) -> Iterator[None]:
        """Turn errors from a damaged part file into an OutputError."""
        try:
            yield
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, pa.ArrowException) as error:
            raise OutputError(
                f"{path} is damaged ({one_line(error)}); delete {self.directory} to start over"
            ) from error

    def _replacing(self, path: Path) -> AbstractContextManager[Path]:
        return replacing(path, self.directory / f"{path.name}.tmp")


def _digest_of(items: Iterable[Item]) -> str:
    """Return a digest of items' names and paths, and their files' sizes and times: a name's content may change."""
    digest = hashlib.sha256()
    for item in items:
        fields = [item.id, item.path, item.start, item.end, item.text, _state_of(item.source)]
        digest.update(json.dumps(fields).encode())
    return digest.hexdigest()


def _state_of(source: Path | TarMember | str | None) -> str:
    if isinstance(source, TarMember):
        return f"{file_state(source.tar)} {source.offset} {source.size}"
    return file_state(source) if isinstance(source, Path) else source or ""
