"""Thumbnails: stored ones, read from the index for all tiles of an answer together, and large ones, made from files."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from perception_encoder.errors import PerceptionEncoderError
from perception_encoder.files import file_state
from perception_encoder.inference.media import open_media
from perception_encoder.preprocess.budget import DECODING
from perception_encoder.preprocess.frames import VideoFrames
from perception_encoder.preprocess.image import open_image
from perception_encoder.search.index.rows import IndexRow, among
from perception_encoder.search.index.thumbnail import encode_thumbnail
from perception_encoder.search.web.library import MediaLibrary, as_tiles

_CACHED = 2048  # stored thumbnails, about 20 MiB
LARGE_SIDE = 640
"""Longest side of a large thumbnail, in pixels: enough for a tile on a screen with two pixels a point."""
_CACHED_LARGE = 256  # about 15 MiB


class Thumbnails:
    """Caches the rows, with thumbnails, of the addresses in `as_tiles`; threads may share one.

    Reading one thumbnail from the index takes as long as reading those of a whole answer.
    """

    def __init__(self, library: MediaLibrary) -> None:
        self._library, self._index, self._lock = library, library.index, threading.Lock()
        self._rows: dict[tuple[str, str], IndexRow] = {}  # by id and the address's query string; the oldest first
        self._large = lru_cache(_CACHED_LARGE)(self._make_large)

    def tiles(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return `as_tiles` of rows, and read the thumbnails that are not cached yet."""
        tiles = as_tiles(rows)
        missing = {key[0]: key for tile in tiles if (key := _key(tile)) not in self._rows}
        if missing:
            fresh = self._index.rows(among("id", missing), thumbnails=True)
            with self._lock:
                self._rows |= {key: row for row in fresh if (key := _key(as_tiles([vars(row)])[0])) == missing[row.id]}
                for oldest in list(self._rows)[:-_CACHED]:
                    del self._rows[oldest]
        return tiles

    def row(self, row_id: str, version: str) -> IndexRow:
        """Return the row of an id; `version` is the query string of its address. SearchIndexError if there is none."""
        return self._rows.get((row_id, version)) or self._index.row(row_id)

    def large(self, row_id: str, version: str) -> bytes:
        """Return a large thumbnail, or the stored one if the file cannot be opened; arguments and errors as `row`."""
        try:
            return self._large(row_id, file_state(self._library.file(row_id)))
        except PerceptionEncoderError:
            return self.row(row_id, version).thumbnail

    def _make_large(self, row_id: str, state: str) -> bytes:
        """Make a large thumbnail; the file's state is part of the cache's key."""
        media, path = self._library.media(row_id)
        with DECODING.admission() as admit:
            if media.kind == "image":
                image = open_image(path, media.name, reduce_to=_needed_side, admit=admit)
            else:
                frames = open_media(media, admit=admit)
                assert isinstance(frames, VideoFrames)
                image = frames.images[0]
            return encode_thumbnail(image, LARGE_SIDE)


def _needed_side(width: int, height: int) -> int:
    """Return the shortest side of a JPEG that is large enough for its large thumbnail."""
    return max(1, LARGE_SIDE * min(width, height) // max(width, height))


def _key(tile: dict[str, Any]) -> tuple[str, str]:
    return tile["id"], tile["thumbnail"].partition("?")[2]
