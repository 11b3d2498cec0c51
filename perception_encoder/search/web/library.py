"""What the page shows: an indexed folder's pictures and moments, newest first or best first, and what is around each.

It knows nothing of HTTP. Conditions are built here, out of checked values, so that nothing a browser sends is SQL.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float

from perception_encoder.errors import ConfigError, InputError, PerceptionEncoderError
from perception_encoder.inference.encoder import Encoder, load
from perception_encoder.inference.media import Kind, Media, resolve
from perception_encoder.inference.pipeline import Decoded, decode, encode_decoded
from perception_encoder.preprocess.budget import ByteBudget
from perception_encoder.preprocess.source import unescape_name
from perception_encoder.search.index.home import check_root
from perception_encoder.search.index.index import Index
from perception_encoder.search.index.indexing import update_index, writable_index
from perception_encoder.search.index.rows import Row, among
from perception_encoder.search.query.asked import AskedTerm
from perception_encoder.search.query.calibration import find_calibration, is_builtin
from perception_encoder.search.query.query import encode_queries, text_query, unit_vectors
from perception_encoder.search.web.rescan import Rescan
from perception_encoder.serving.batching import quiet

T = TypeVar("T")

logger = logging.getLogger(__name__)

_DATE = re.compile(r"\d{4}(-\d\d(-\d\d)?)?")
_QUERIES = 64  # whose vectors are remembered, so that a page further down costs no encoding
_DECODERS, _DECODING_BYTES = 2, 256 << 20  # threads, and bytes of images that they decode at the same time
_ELSEWHERE = "to put the index into another directory, give --index DIR"


@dataclass(frozen=True, kw_only=True)
class Filter:
    """What is shown at all."""

    kind: str = ""
    """"image", "video", or all."""
    since: str = ""
    """A date such as "2024", "2024-07" or "2024-07-31", or any."""
    until: str = ""
    """Likewise, the whole of it included."""
    path: str = ""
    """A part of the path, whatever its case."""

    def condition(self) -> str | None:
        """In SQL; ConfigError where a value is none."""
        parts = []
        if self.kind:
            if self.kind not in ("image", "video"):
                raise ConfigError(f"kind is {self.kind!r}; it must be 'image' or 'video'")
            parts.append(f"kind = '{self.kind}'")
        for value in (self.since, self.until):
            if value and not _DATE.fullmatch(value):
                raise ConfigError(f"{value!r} must be a date such as 2024, 2024-07 or 2024-07-31")
        if self.since:
            parts.append(f"date >= '{self.since}'")
        if self.until:
            parts.append(f"date <= '{self.until}~'")  # after every longer date that begins so
        if self.path:
            quoted = self.path.lower().replace("'", "''")
            parts.append(f"contains(lower(path), '{quoted}')")
        return " AND ".join(parts) or None


@dataclass(kw_only=True)
class Progress:
    """How far an update of the index is."""

    running: bool = False
    done: int = 0
    total: int = 0
    failures: list[InputError] = field(default_factory=list)
    """Files that the last update could not read."""
    error: str = ""


class Library:
    """An index and the encoder of its vectors; threads may share one."""

    def __init__(self, index: Index, encoder: Encoder) -> None:
        self.index, self.encoder, self.progress = index, quiet(encoder), Progress()
        self._rescan = Rescan(index, self.refresh)
        self._lock = threading.Lock()
        self._version = index.refresh()
        self._listings = lru_cache(8)(self._list)
        self._texts = lru_cache(_QUERIES)(self._encode_text)
        self._dropped: dict[str, np.ndarray] = {}
        self.model_thread = ThreadPoolExecutor(1, "model")
        """Where all model work for the page is done: torch and the C library keep memory for each thread that does."""
        self._decoders = ThreadPoolExecutor(_DECODERS, "decode")
        self.budget = ByteBudget(_DECODING_BYTES)
        """For images that are decoded for the page."""

    def compute(self, work: Callable[[], T]) -> T:
        """Do model work in `model_thread`."""
        return self.model_thread.submit(work).result()

    def warm_up(self) -> None:
        """Encode a text, in time: the first one takes ten times as long."""
        if self.encoder.tokenizer is not None:
            self.model_thread.submit(self.encoder.encode_texts, "a")

    def newest(self, shown: Filter, offset: int, count: int) -> tuple[list[dict[str, Any]], int]:
        """Some rows, newest first, and how many there are in all."""
        rows = self._listings(shown.condition(), self._version)
        return rows.slice(offset, count).to_pylist(), len(rows)

    def find(self, terms: Sequence[AskedTerm], shown: Filter, offset: int, count: int) -> list[dict[str, Any]]:
        """Some rows, best first, with their `score` and, for a text where that can be told, `probability`.

        `terms`: see `parse_asked`; an "image:ID" is what `add_image` gave. Raises ConfigError, SearchIndexError.
        """
        rows = self.index.nearest(self._encode(terms), offset + count, shown.condition())[offset:]
        names = [name for name in vars(rows[0][1]) if name not in ("vector", "thumbnail")] if rows else []
        found = [{**{name: getattr(row, name) for name in names}, "score": score} for score, row in rows]
        single = len(terms) == 1 and terms[0].kind == "text" and terms[0].weight > 0
        calibration = find_calibration(self.index, text_query(terms[0].what)) if single else None
        if calibration is not None:
            chances = calibration.probabilities(np.array([score for score, _ in rows]))
            found = [{**row, "probability": float(chance)} for row, chance in zip(found, chances, strict=True)]
        return found

    def low_confidence(self, terms: Sequence[AskedTerm], hits: Sequence[dict[str, Any]]) -> str | None:
        """Why the best hits of a query with a text are likely to be wrong; None if nothing says so.

        The built-in model always is; another model if even its best hit is more likely wrong than right.
        """
        if not hits or all(term.kind != "text" for term in terms):
            return None
        if is_builtin(self.index):
            return f"{self.encoder.name} knows few objects and gives no probabilities"
        best = max(hit.get("probability", 1.0) for hit in hits)
        if best >= 0.5:
            return None
        shown = f"{best:.0%}" if best >= 0.01 else "under 1%"
        return f"{self.encoder.name} gives even its best hit a probability of {shown}"

    def count(self, shown: Filter) -> int:
        """How many rows a filter lets through."""
        return self.index.count(shown.condition())

    def add_image(self, content: bytes) -> str:
        """Remember an image or video to search by; returns the term for `find`. Raises the InputError of a bad one."""
        decoded = self._decoders.submit(self._decode, content).result()
        (vector,) = self.compute(partial(encode_decoded, self.encoder, [decoded], self.encoder.feature()))
        name = f"{abs(hash(content)):x}"
        self._dropped[name] = vector
        while len(self._dropped) > _QUERIES:
            self._dropped.pop(next(iter(self._dropped)))
        return f"image:{name}"

    def _decode(self, content: bytes) -> Decoded:
        return decode(self.encoder, resolve(content, "the image"), self.encoder.feature(), self.budget)

    def _encode(self, terms: Sequence[AskedTerm]) -> Float[np.ndarray, " D"]:
        """The weighted sum of the terms' unit vectors, made unit again; each term's vector is remembered apart."""
        vectors = [term.weight * self._vector(term) for term in terms]
        names = ", ".join(f"{term.weight:g}:{term.what}" for term in terms)
        return unit_vectors(np.sum(vectors, axis=0)[None], [names])[0]

    def _vector(self, term: AskedTerm) -> Float[np.ndarray, " D"]:
        if term.kind == "text":
            return self._texts(term.what)
        if term.kind == "like":
            return self.index.row(term.what).vector
        if term.what not in self._dropped:
            raise ConfigError("the image is forgotten; choose it again")
        return self._dropped[term.what]

    def _encode_text(self, text: str) -> Float[np.ndarray, " D"]:
        return self.compute(lambda: encode_queries(self.encoder, [text_query(text)])[0])

    def _list(self, where: str | None, version: int) -> pa.Table:
        """The rows of a condition as of a commit, which only tells remembered lists apart."""
        return self.index.listing(where)

    def around(self, id: str) -> list[dict[str, Any]]:
        """The moments of a row's video, or the pictures taken before and after it, itself among them, in order."""
        row = self.index.row(id)
        if row.kind == "video":
            return self.index.listing(among("path", [row.path])).sort_by("start").to_pylist()
        rows = self._listings(None, self._version)
        at = max(0, pc.index(rows["id"], id).as_py())
        return rows.slice(max(0, at - 6), min(at, 6) + 7).to_pylist()[::-1]

    def file(self, id: str) -> Path:
        """A row's file; ConfigError where it is not in the folder (any more), as what lies in a tar is not."""
        return self._path(self.index.row(id))

    def media(self, id: str) -> tuple[Media, Path]:
        """A row's picture, or the frame that stands for its moment, and the file; raises what `file` does."""
        row = self.index.row(id)
        path = self._path(row)
        return Media(cast(Kind, row.kind), row.path, path, row.time, row.time), path

    def _path(self, row: Row) -> Path:
        folder = self.index.root.resolve()
        path = folder / unescape_name(row.path)
        if not path.is_file() or not path.resolve().is_relative_to(folder):
            raise ConfigError("the file is not in the folder any more")
        return path

    def start_update(self) -> bool:
        """Update the index in a thread of its own; False if one is at work already."""
        if self._begin():
            threading.Thread(target=self.update, daemon=True).start()
            return True
        return False

    def watch(self, seconds: float = 10.0) -> None:
        """Update the index, in a thread of its own, now and whenever files are new, changed or gone.

        They are looked for every `seconds`, or more rarely if listing the directory takes long.
        """
        threading.Thread(target=self._rescan.run, args=(seconds, self.update_if_idle), daemon=True).start()

    def update_if_idle(self) -> bool:
        """Update the index in this thread; False if another thread updates it already, or if the update fails."""
        if not self._begin():
            return False
        self.update()
        return not self.progress.error

    def _begin(self) -> bool:
        with self._lock:
            if self.progress.running:
                return False
            self.progress = Progress(running=True, failures=self.progress.failures)
            return True

    def update(self) -> None:
        """Bring the index up to date; `progress` says how far that is, and what went wrong."""

        def begin(total: int) -> Any:
            self.progress = Progress(running=True, total=total, failures=self.progress.failures)
            return self._advance

        self.progress = Progress(running=True, failures=self.progress.failures)
        try:
            with Index.for_writing(self.index.folder):
                writer = Index.open(self.index.folder)
                writer.check(self.encoder.describe(self.encoder.feature()))
                report = update_index(writer, self.encoder, begin)
            self.progress.failures = report.failures
        except (PerceptionEncoderError, OSError) as error:
            self.progress.error = _with_remedy(error)
        except Exception as error:  # the thread's last word
            logger.exception("the index could not be brought up to date")
            self.progress.error = f"the index could not be brought up to date: {error}"
        finally:
            self.progress.running = False

    def _advance(self, files: int) -> None:
        self.progress.done += files

    def refresh(self) -> int:
        """Show what was committed since, by whomever; returns the number of the last commit."""
        with self._lock:
            self._version = self.index.refresh()
            return self._version


def open_library(
    folder: Path,
    source: str | None = None,
    home: Path | None = None,
    default: Callable[[], str] = lambda: "builtin",
) -> Library:
    """A folder's library; the folder, or `home`, gets an empty index if there is none.

    `source`: the model, by default the index's own, or that of a new index, `default()`. Raises what `writable_index`
    raises, but for a writer at work.
    """
    if not Index.exists(home or folder):
        with writable_index(folder, source, home=home, default=default):
            pass
    index = Index.open(home or folder)
    check_root(index, folder)
    index.check_name(source or index.settings["model"])
    encoder = load(source or index.settings["source"])
    index.check(encoder.describe(encoder.feature()), source)
    library = Library(index, encoder)
    library.warm_up()
    return library


def _with_remedy(error: Exception) -> str:
    """An error in one line; if an index cannot be written, what to do."""
    unwritable = isinstance(error, OSError) or isinstance(error.__cause__, OSError)
    return f"{error}; {_ELSEWHERE}" if unwritable else str(error)


def as_tiles(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows as the page wants them: the file's name beside its path, nothing that only the index needs."""
    kept = ("id", "path", "kind", "start", "stop", "time", "length", "width", "height", "date", "size")
    scored = ("score", "probability")
    return [
        {
            **{name: row[name] for name in (*kept, *scored) if name in row},
            "name": row["path"].rpartition("/")[2],
            "thumbnail": f"/thumbnail/{row['id']}?{row['digest'][:8]}",
        }
        for row in rows
    ]
