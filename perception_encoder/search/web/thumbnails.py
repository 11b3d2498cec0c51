"""Thumbnails: stored ones, read from the index for all tiles of an answer together, and large ones, made from files."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from perception_encoder.errors import PerceptionEncoderError
from perception_encoder.inference.media import open_media
from perception_encoder.preprocess.frames import VideoFrames
from perception_encoder.preprocess.image import open_image
from perception_encoder.search.index.rows import Row, among
from perception_encoder.search.web.library import Library, as_tiles
from perception_encoder.search.web.pages import thumbnail

_CACHED = 2048  # stored thumbnails, about 20 MiB
LARGE_SIDE = 640
"""Longest side of a large thumbnail, in pixels: enough for a tile on a screen with two pixels a point."""
_CACHED_LARGE = 256  # about 15 MiB


class Thumbnails:
    """The rows, with their thumbnails, behind the addresses that `as_tiles` gives; threads may share it.

    One thumbnail read alone from the index takes as long as those of a whole answer.
    """

    def __init__(self, library: Library) -> None:
        self._library, self._index, self._lock = library, library.index, threading.Lock()
        self._rows: dict[tuple[str, str], Row] = {}  # by id and what follows the address's "?"; the oldest first
        self._large = lru_cache(_CACHED_LARGE)(self._make_large)

    def tiles(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """`as_tiles`, with the thumbnails of all read that are not here yet."""
        tiles = as_tiles(rows)
        wanted = {key[0]: key for tile in tiles if (key := _key(tile)) not in self._rows}
        if wanted:
            found = self._index.rows(among("id", wanted), thumbnails=True)
            with self._lock:
                self._rows |= {key: row for row in found if (key := _key(as_tiles([vars(row)])[0])) == wanted[row.id]}
                for oldest in list(self._rows)[:-_CACHED]:
                    del self._rows[oldest]
        return tiles

    def row(self, id: str, asked: str) -> Row:
        """The row of an id; `asked`: what follows the "?" of its thumbnail's address. SearchIndexError if missing."""
        return self._rows.get((id, asked)) or self._index.row(id)

    def large(self, id: str, asked: str) -> bytes:
        """A large thumbnail, a JPEG; the stored one if the file cannot be opened. Takes and raises what `row` does."""
        try:
            return self._large(id, asked)
        except PerceptionEncoderError:
            return self.row(id, asked).thumbnail

    def _make_large(self, id: str, asked: str) -> bytes:
        media, path = self._library.media(id)
        with self._library.budget.admission() as admit:
            if media.kind == "image":
                image = open_image(path, media.name, reduce_to=_needed_side, admit=admit)
            else:
                frames = open_media(media, admit=admit)
                assert isinstance(frames, VideoFrames)
                image = frames.images[0]
            return thumbnail(image, LARGE_SIDE)


def _needed_side(width: int, height: int) -> int:
    """How long the short side of a JPEG must stay for its large thumbnail."""
    return max(1, LARGE_SIDE * min(width, height) // max(width, height))


def _key(tile: dict[str, Any]) -> tuple[str, str]:
    return tile["id"], tile["thumbnail"].partition("?")[2]
