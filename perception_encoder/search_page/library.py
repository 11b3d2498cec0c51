"""The images and moments of an indexed directory for the page, newest first or best first.

This module does not know HTTP. It builds SQL conditions from checked values, never from what a browser sends.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from jaxtyping import Float

from perception_encoder.errors import ConfigError, InputError, PerceptionEncoderError, SearchIndexError, one_line
from perception_encoder.formats.exclude import parse_patterns
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.model_spec import DEFAULT, ModelSpec
from perception_encoder.preprocess.media import Kind, Media, resolve
from perception_encoder.preprocess.source import unescape_name
from perception_encoder.search.ranking import Hit, best_hits, query_vector, query_vectors
from perception_encoder.search.storage.database import COLUMNS, IndexRow
from perception_encoder.search.storage.location import check_root
from perception_encoder.search.storage.reader import find_changes
from perception_encoder.search.storage.seal import elsewhere
from perception_encoder.search.storage.store import IndexStore
from perception_encoder.search.storage.trust import load_encoder
from perception_encoder.search.storage.update import update_store, writable_store
from perception_encoder.search.storage.words import explain
from perception_encoder.search.storage.writer import IndexWriter
from perception_encoder.search.terms import Query, UploadedImage, text_query
from perception_encoder.serving.queues import quiet
from perception_encoder.words.reader import TextLine

T = TypeVar("T")

logger = logging.getLogger(__name__)

_CACHED = 64  # texts and images whose vectors are cached, so that a page further down costs no encoding
_CACHED_RANKINGS = 4
_DECODERS = 2  # threads
_MAXIMUM_LINES = 2000  # of an image
_LISTING_SHARE = 0.05  # maximum share of time spent on listing


def condition(kind: str = "", since: str = "", until: str = "", path: str = "") -> str | None:
    """Return the page's filters as a condition in SQL; ConfigError for an invalid value.

    Args:
        kind: "image", "video", or all.
        since, until: Dates such as "2024", "2024-07" or "2024-07-31", inclusive.
        path: A part of the path, ignoring case.
    """
    if kind not in ("", "image", "video"):
        raise ConfigError(f"kind is {kind!r}; it must be 'image' or 'video'")
    since, until, path = (value.replace("'", "''") for value in (since, until, path.lower()))
    parts = {
        f"kind = '{kind}'": kind,
        f"date >= '{since}'": since,
        f"date <= '{until}'": until,
        f"instr(lower(path), '{path}')": path,
    }
    return " AND ".join(part for part, value in parts.items() if value) or None


@dataclass(kw_only=True)
class Progress:
    """Progress of an update of the index."""

    running: bool = False
    done: int = 0
    total: int = 0
    failures: list[InputError] = field(default_factory=list)
    """Files that the last update could not read."""
    error: str = ""


class MediaLibrary:
    """An index and its encoder; threads may share one."""

    def __init__(self, index: IndexStore, encoder: Encoder) -> None:
        self.index, self.encoder, self.progress = index, quiet(encoder), Progress()
        self._lock = threading.Lock()
        self._encode_text = lru_cache(_CACHED)(self._encode_uncached)
        self._rank = lru_cache(_CACHED_RANKINGS)(self._rank_uncached)
        self._uploads: dict[str, UploadedImage] = {}
        self.model_thread = ThreadPoolExecutor(1, "model")
        """Does all model work for the page: torch and the C library reserve memory for each computing thread."""
        self._decoders = ThreadPoolExecutor(_DECODERS, "decode")

    def compute(self, work: Callable[[], T]) -> T:
        """Run model work in `model_thread`."""
        return self.model_thread.submit(work).result()

    def warm_up(self) -> None:
        """Encode a text in advance, as the first one takes ten times as long."""
        if self.encoder.reads_texts:
            self.model_thread.submit(self.encoder.encode_texts, "a")

    def find(
        self, query: Query, where: str | None, top: int, min_score: float | None = None, collapse: bool = False
    ) -> list[Hit]:
        """Return the best hits, the query's own rows too; for the rest, see `best_hits`. Raises ConfigError."""
        vector = query_vector(query, lambda media: self._encode_text(str(media.payload)))
        doubled = 1 << (top - 1).bit_length()  # so that few of the pages further down are ranked anew
        commit = self.index.refresh()
        return self._rank(commit, vector.tobytes(), where, doubled, min_score, collapse, query.words)[:top]

    def _rank_uncached(self, commit: int, vector: bytes, where: str | None, *limits: Any) -> list[Hit]:
        top, min_score, collapse, words = limits
        unit = np.frombuffer(vector, np.float32)
        return best_hits([self.index], unit, top, where, min_score, collapse=collapse, words=words)

    def term_source(self, kind: str, source_id: str) -> IndexRow | UploadedImage:
        """Return the row ("like") or the uploaded image ("image") with an id; raises SearchIndexError, ConfigError."""
        if kind == "like":
            return self.index.row(source_id)
        if source_id not in self._uploads:
            raise ConfigError("this image has expired; upload it again")
        return self._uploads[source_id]

    def add_image(self, content: bytes) -> str:
        """Cache the embedding of an image or video, and return a query line for it; raises InputError."""
        feature = self.encoder.feature()
        decoding = self._decoders.submit(lambda: self.encoder.decode(resolve(content, "the image"), feature, True))
        (vector,) = self.compute(partial(self.encoder.encode_decoded, [decoding.result()], feature))
        image_id = f"{abs(hash(content)):x}"
        self._uploads[image_id] = UploadedImage(id=image_id, vector=vector)
        while len(self._uploads) > _CACHED:
            self._uploads.pop(next(iter(self._uploads)))
        return f"image:{image_id}"

    def _encode_uncached(self, text: str) -> Float[np.ndarray, " D"]:
        return self.compute(lambda: query_vectors(self.encoder, [text_query(text)])[0])

    def words(self, row_id: str, query: Query) -> list[tuple[TextLine, bool]]:
        """Return the lines of a row's image, with whether they have words of a query; raises what `file` does."""
        row = self.index.row(row_id)
        self.check_inside(row)
        lines = self.index.lines([row])[0][:_MAXIMUM_LINES]
        found = set(explain(query.words.words, "", lines)[1]) if query.words else ()
        return [(line, line in found) for line in lines]

    def file(self, row_id: str) -> Path:
        """Return a row's file; ConfigError if it is in a tar or no longer in the directory."""
        return self.media(row_id)[1]

    def media(self, row_id: str, whole: bool = False) -> tuple[Media, Path]:
        """Return a row's image, or the frame (or the `whole`) of its moment, and the file; raises what `file` does."""
        row = self.index.row(row_id)
        path = self.check_inside(row)
        if not path.is_file():
            raise ConfigError("the file is no longer in the directory")
        start, end = (row.start, row.stop) if whole else (row.time, row.time)
        return Media(cast(Kind, row.kind), row.path, path, start, end), path

    def check_inside(self, row: IndexRow) -> Path:
        """Return a row's path; ConfigError if it is a link out of the directory, which is not shown to others."""
        root = os.path.realpath(self.index.root)
        path = Path(root, unescape_name(row.path))
        if not Path(os.path.realpath(path)).is_relative_to(root):
            raise ConfigError("the file is a link out of the directory")
        return path

    def start_update(self) -> bool:
        """Update the index in a separate thread; return False if an update is running already."""
        if begun := self._begin():
            threading.Thread(target=self.update, daemon=True).start()
        return begun

    def watch(self, seconds: float = 10.0) -> None:
        """Update the index in a separate thread, now and whenever files are new, changed or deleted.

        The directory is listed every `seconds`, or less often if listing takes long.
        """
        threading.Thread(target=self._watch, args=(seconds,), daemon=True).start()

    def _watch(self, seconds: float) -> None:
        handled: set[tuple[str, int, int]] | None = None  # a file that could not be read is retried when it changes
        while True:
            began = time.monotonic()
            try:
                self.index.refresh()
                changes = find_changes(self.index.root, self.index.files(), self.index.excluded)
                candidates = {(file.path, file.size, file.modified) for file in changes.candidates}
                spent = time.monotonic() - began
                if (handled is None or candidates - handled or changes.gone) and self._begin():
                    self.update()
                    handled = handled if self.progress.error else candidates
            except (PerceptionEncoderError, OSError) as error:  # for example a disk that is not mounted
                logger.info("the directory cannot be listed: %s", one_line(error))
                spent = time.monotonic() - began
            time.sleep(max(seconds, spent / _LISTING_SHARE))

    def _begin(self) -> bool:
        with self._lock:
            begun, self.progress.running = not self.progress.running, True
            return begun

    def update(self) -> None:
        """Update the index, and set `progress`."""

        def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
            self.progress.total, self.progress.done = total or 0, 0
            for item in items:
                yield item
                self.progress.done += 1

        self.progress = Progress(running=True, failures=self.progress.failures)
        try:
            directory = self.index.directory
            with IndexWriter.for_writing(directory, self.index.root), closing(IndexWriter.open(directory)) as writer:
                writer.check(self.encoder.describe(self.encoder.feature()), self.encoder.source)
                report = update_store(writer, self.encoder, track)
            self.progress.failures = list(report.skipped)
        except (PerceptionEncoderError, OSError) as error:
            text = one_line(error) if isinstance(error, OSError) else str(error)
            unwritable = isinstance(error, OSError) or isinstance(error.__cause__, OSError)
            self.progress.error = f"{text}; {elsewhere(self.index.root)}" if unwritable else text
        except Exception as error:  # in a thread: nobody else would report it
            logger.exception("the index could not be updated")
            self.progress.error = f"the index could not be updated: {one_line(error)}"
        finally:
            self.progress.running = False


def open_library(
    media: Path, model: ModelSpec = DEFAULT, directory: Path | None = None, exclude: Sequence[str] | None = None
) -> MediaLibrary:
    """Open a directory's library, raising what `writable_store` does; create an empty index if there is none.

    Args:
        model: By default the index's own, or the default model for a new index.
        directory: Where the index is stored; by default the directory itself.
        exclude: See `Index.update`. Another process may write the index, unless this is given.
    """
    parse_patterns(exclude or ())
    encoder: Encoder | None = None
    if not IndexStore.exists(directory or media):
        with writable_store(media, model, directory=directory) as (_, encoder):
            pass
    index = IndexStore.open(directory or media)
    check_root(index.directory, index.root, media)
    if exclude is not None:
        with IndexWriter.for_writing(index.directory):
            IndexWriter.open(index.directory).exclude(exclude)
    encoder = load_encoder([index], encoder or model)
    library = MediaLibrary(index, encoder)
    library.warm_up()
    return library


def stored_secret(path: Path) -> bytes | None:
    """Return the secret in a file, creating it if missing; None if the file cannot be read or written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(descriptor, "wb") as file:
                file.write(secrets.token_bytes(32))
        secret = path.read_bytes()
    except OSError:
        return None
    return secret if len(secret) == 32 else None


class SignedIds:
    """Signs ids with a secret, by default this run's: an index's ids are hashes of paths, which others could guess."""

    def __init__(self, secret: bytes | None = None) -> None:
        self._secret = secret or secrets.token_bytes(32)

    def signed(self, row_id: str) -> str:
        """Return an id with its signature."""
        signature = hmac.new(self._secret, row_id.encode(errors="replace"), hashlib.sha256).hexdigest()
        return f"{row_id}-{signature[:16]}"

    def check(self, signed: str) -> str:
        """Return the row's id; SearchIndexError if this run did not sign it, whether or not the row exists."""
        row_id = signed.rpartition("-")[0]
        if not hmac.compare_digest(self.signed(row_id).encode(), signed.encode(errors="replace")):
            raise SearchIndexError("this address is from an earlier run of pe serve; search for the image again")
        return row_id


def as_tile(row: IndexRow, row_id: str) -> dict[str, Any]:
    """Return a row as the page's JSON: with a signed id, the file's name and the thumbnail's address."""
    values = {name: getattr(row, name) for name in COLUMNS if name not in ("modified", "digest")}
    address = f"/thumbnail/{row_id}?{row.digest[:8]}"
    return {**values, "id": row_id, "name": row.path.rpartition("/")[2], "thumbnail": address}
