"""Embeddings on disk: parts during a run, one file, table or directory at its end.

`OUT.parts/` is a store of parts, which hold whole batches: a killed run resumes after its last part with the batches
that an unbroken run would have made.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any, Self, Unpack

import pyarrow as pa
import pyarrow.parquet as pq

from perception_encoder.errors import DataError, InputError, OutputError
from perception_encoder.files import digest, file_state, open_regular, refuse_link, replacing, writing
from perception_encoder.formats.listing import Item, check_paths, list_items
from perception_encoder.formats.tars import TarMember
from perception_encoder.inference.cluster import encoding_on_cluster
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.load import ModelLike, as_encoder
from perception_encoder.inference.model_spec import ModelKeywords
from perception_encoder.inference.output_formats import check_target, to_table, write_embeddings
from perception_encoder.inference.pipeline import Embedding, EncodingResult, Failure, guess_kind, is_text
from perception_encoder.preprocess.source import as_paths, open_source
from perception_encoder.progress import Track, untracked
from perception_encoder.store import RESUME, SETTINGS, Store
from perception_encoder.words.reader import read_each

_PART_BYTES = 64 << 20
PART_SECONDS = 15.0  # the work that a kill may cost
PIECE, PIECES = 1 << 20, 256  # bytes and number of the pieces of a large file


@dataclass(frozen=True, kw_only=True)
class EmbedReport:
    """The result of `pe.embed`."""

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
    normalize: bool = True,
    frames: int = 8,
    overwrite: bool = False,
    exclude: Sequence[str] = (),
    ray: str | None = None,
    words: bool = False,
    progress: Track = untracked,
    **keywords: Unpack[ModelKeywords],
) -> EmbedReport:
    """Embed images, videos and texts into a file; repeating an interrupted call resumes it.

    Inputs that cannot be read are skipped and reported.

    Args:
        media: Images, videos, directories, globs, tables of paths or texts, tars, URLs.
        out: A .parquet file, a .lance table, or a directory in clip-retrieval's layout.
        model: A model's name or path, or an encoder; by default the default model (see `pe models`).
        normalize: Make vectors unit length.
        frames: Number of uniform frames of a video.
        overwrite: Replace an existing `out`.
        exclude: Files in directories to leave out, as patterns in gitignore's syntax; `.peignore` files also apply.
        ray: Address of a Ray cluster whose machines read and encode the inputs.
        words: Also read the words in images, on this machine, into a column of lines; see `pe.read_words`.
        **keywords: Fields of a `ModelSpec`.

    Raises:
        DataError: There are no inputs, or the parts of an interrupted run are damaged.
        MediaNotFoundError: A path does not exist.
        ConfigError: `out` has another suffix, or the model lacks a setting.
        OutputError: `out` exists, or has an unfinished run with other settings or inputs, or writing fails.
        ModelError: Loading fails: see `pe.load`.
        ClusterError: No cluster answers, or it is lost.

    Examples:
        >>> pe.embed("photos", "photos.parquet", model="PE-Core-L14-336").rows
    """
    paths, out = as_paths(media), Path(out)
    check_paths(paths)
    first = next(list_items(paths, excluded=exclude), None)
    if first is None:
        which = " that are not excluded" if exclude else ""
        raise DataError(f"no images, videos or texts{which} in {', '.join(map(str, paths))}")
    encoder = as_encoder(model, **keywords)
    feature = encoder.feature(normalize=normalize, frames=frames)
    total = 0 if progress is untracked else sum(1 for _ in list_items(paths, excluded=exclude))
    started, left_out = time.perf_counter(), Counter[str]()
    if not is_text(first) and (overwrite or not out.exists()):
        encoder.runtime.prepare(feature.executed)
    settings = encoder.describe(feature) | ({"words": True} if words else {})
    with (
        EmbeddingWriter(out, settings, overwrite=overwrite) as writer,
        encoding_on_cluster(ray) if ray else nullcontext(Encoder.stream_items) as encode,
    ):
        earlier, items = writer.done, writer.resume(list_items(paths, left_out, exclude))

        def write() -> Iterator[None]:
            for batch in encode(encoder, items, feature):
                writer.add(_with_words(batch) if words else batch)
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


def _with_words(batch: Sequence[EncodingResult[Item]]) -> list[EncodingResult[Item]]:
    """Return the results of a batch, images with their lines; none where they cannot be read."""
    images = [
        result.key for result in batch if isinstance(result, Embedding) and guess_kind(result.key.path) == "image"
    ]
    found = {item: lines for item, lines in read_each(zip(images, images, strict=True)) if isinstance(lines, list)}
    return [
        replace(result, words=tuple(line.text for line in found.get(result.key, ())))
        if isinstance(result, Embedding)
        else result
        for result in batch
    ]


@dataclass(frozen=True)
class _Part:
    """Some consecutive items, whose embeddings are in a part."""

    items: int
    """Number of items, including failures."""
    names: str
    """Digest of the items."""
    states: str
    """Digest of their files' paths, sizes and times."""
    contents: str
    """Digest of their files' content."""
    failures: tuple[tuple[str, str], ...]
    """Source and reason of each."""


class EmbeddingWriter:
    """Writes a run's results to `out` and resumes an earlier run with the same settings.

        with EmbeddingWriter(out, settings) as writer:
            for batch in encoder.stream_items(writer.resume(items), feature):
                writer.add(batch)
            writer.finish()

    However the block is left, added results are saved. `out` is a .parquet file, a .lance table or, without a suffix, a
    directory in clip-retrieval's layout. Raises ConfigError for another suffix, DataError for damaged parts, and
    OutputError if `out` exists (unless `overwrite`), if another run writes it, if an unfinished run has other settings
    or other inputs, and if the disk is full; finished parts stay. If no input could be used, nothing is written.
    """

    def __init__(
        self, out: Path, settings: Mapping[str, object], *, overwrite: bool = False, resumes: bool = True
    ) -> None:
        """Without `resumes`, an unfinished run is replaced, and no file is read to recognise it."""
        self.out, self.settings = out.absolute(), settings
        directory = self.out.with_name(self.out.name + ".parts")
        self.failures: list[InputError] = []
        """All so far, including those of earlier, interrupted runs."""
        self._pending: list[EncodingResult[Item]] = []
        self._files, self._threads, self._resumes = list[Future[list[_File]]](), ThreadPoolExecutor(2), resumes
        self._pending_bytes, self._flushed_at = 0, time.monotonic()
        with writing(self.out):
            refuse_link(directory)
            check_target(self.out, settings, overwrite or (directory / SETTINGS).is_file())
            self._remedy = f"delete {directory} to start over"
            self.store = Store(directory, settings, remedy=self._remedy)
        try:
            self.parts = self.store.records(_Part)
            if not resumes:
                self.parts.replace([])
        except BaseException:
            self.store.close()
            raise

    @property
    def done(self) -> int:
        """Number of items in finished parts, including failures."""
        return sum(part.items for part in self.parts.rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            if not isinstance(error, OutputError):
                self.flush()
            if error is not None and not self.parts.rows:  # nothing to resume from
                self.store.discard()
        finally:
            self._threads.shutdown(cancel_futures=True)
            self.store.close()

    def resume(self, items: Iterable[Item]) -> Iterator[Item]:
        """Return the items that no finished part holds; OutputError if the run began with other items.

        A file is the same if its path, size and times are, or else its content: a copy or a new link has other times.
        """
        items = iter(items)
        for part, path in zip(self.parts.rows, self._paths(), strict=True):
            with self.store.reading(path, also=(pa.ArrowException,)), open(open_regular(path, False), "rb") as file:
                if pq.read_metadata(file).num_rows != part.items - len(part.failures):
                    raise ValueError("it has other rows")
            done = list(islice(items, part.items))
            if _digest_of(done) != part.names or (
                digest([state for state, _ in _files_of(done)]) != part.states
                and digest([content for _, content in _files_of(done, contents=True)]) != part.contents
            ):
                raise OutputError(f"{self.store.path} began with other inputs; {self._remedy}")
            self.failures += [InputError(*failure) for failure in part.failures]
        return items

    def _paths(self) -> list[Path]:
        return [self.store.path / f"{number:06d}.parquet" for number in range(len(self.parts.rows))]

    def add(self, batch: Sequence[EncodingResult[Item]]) -> None:
        """Add the results of one batch; writes a part from time to time."""
        self._pending += batch
        self._files.append(self._threads.submit(_files_of, [result.key for result in batch], self._resumes))
        self.failures += [result.error for result in batch if isinstance(result, Failure)]
        self._pending_bytes += sum(result.vector.nbytes for result in batch if isinstance(result, Embedding))
        if self._pending_bytes >= _PART_BYTES or time.monotonic() - self._flushed_at >= PART_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Save added results as a part."""
        if not self._pending:
            return
        errors = [result.error for result in self._pending if isinstance(result, Failure)]
        table = to_table([result for result in self._pending if isinstance(result, Embedding)], self.settings)
        files = [file for batch in self._files for file in batch.result()]
        part = _Part(
            len(self._pending),
            _digest_of(result.key for result in self._pending),
            digest([state for state, _ in files]),
            digest([content for _, content in files]),
            tuple((error.source, error.reason) for error in errors),
        )
        with self.store.part(f"{len(self.parts.rows):06d}.parquet") as path, open(path, "wb") as file:
            pq.write_table(table, file, write_page_checksum=True)
        self.parts.append(part)
        self._pending, self._files, self._pending_bytes, self._flushed_at = [], [], 0, time.monotonic()

    def finish(self) -> int:
        """Assemble `out` from the parts and remove them; return the number of rows (no rows, no file)."""
        self.flush()
        rows = self.done - sum(len(part.failures) for part in self.parts.rows)
        if rows:
            with (
                writing(self.out, RESUME, also=(pa.ArrowException, RuntimeError)),
                replacing(self.out, self.store.path / "out.tmp") as path,
            ):
                write_embeddings(path, self.out.suffix, self._paths(), self.store)
        self.store.discard()
        return rows


_File = tuple[str, str]
"""What tells a file from others: its path, size and times, and its content."""


def _digest_of(items: Iterable[Item]) -> str:
    return digest(*([item.id, item.path, item.start, item.end, item.text] for item in items))


def _files_of(items: Iterable[Item], contents: bool = False) -> list[_File]:
    """Return each item's file; without `contents`, none is read."""
    files = list[_File]()
    for source in (item.source for item in items):
        path, place = (source.tar, (source.offset, source.size)) if isinstance(source, TarMember) else (source, (0, -1))
        if isinstance(path, Path):
            state = file_state(path)
            exists = contents and state != str(path)
            files.append((f"{state} {place}", _digest_of_content(state, path, *place) if exists else ""))
        else:
            files.append((path or "", ""))
    return files


@lru_cache(1024)  # many items may be ranges of one video
def _digest_of_content(state: str, path: Path, offset: int, size: int) -> str:
    """Return a digest of a file or of a member of a tar, if large of 256 pieces of it; empty if it cannot be read."""
    whole = hashlib.blake2b(digest_size=16)
    try:
        with open_source(path) as (file, _):
            end = file.seek(0, os.SEEK_END) if size < 0 else offset + size
            whole.update(b"%d " % (end - offset))
            for start in range(offset, end, max(PIECE, math.ceil((end - offset - PIECE) / (PIECES - 1)))):
                file.seek(start)
                whole.update(file.read(min(PIECE, end - start)))
    except (OSError, InputError):
        return ""
    return whole.hexdigest()
