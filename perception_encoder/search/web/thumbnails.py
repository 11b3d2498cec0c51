"""Thumbnails of an answer's tiles, read together: reading one alone takes as long as reading all."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from perception_encoder.search.index.index import Index
from perception_encoder.search.index.rows import IndexRow, among
from perception_encoder.search.web.library import as_tiles

_CACHED = 2048  # about 20 MiB


class Thumbnails:
    """Caches the rows, with thumbnails, of the addresses in `as_tiles`; threads may share one."""

    def __init__(self, index: Index) -> None:
        self._index, self._lock = index, threading.Lock()
        self._rows: dict[tuple[str, str], IndexRow] = {}  # by id and the address's query string; the oldest first

    def tiles(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return `as_tiles` of rows, and read the thumbnails that are not cached yet."""
        tiles = as_tiles(rows)
        wanted = {key[0]: key for tile in tiles if (key := _key(tile)) not in self._rows}
        if wanted:
            stored = self._index.rows(among("id", wanted), thumbnails=True)
            with self._lock:
                self._rows |= {key: row for row in stored if (key := _key(as_tiles([vars(row)])[0])) == wanted[row.id]}
                for oldest in list(self._rows)[:-_CACHED]:
                    del self._rows[oldest]
        return tiles

    def row(self, id: str, version: str) -> IndexRow:
        """Return the row of an id; `version` is the query string of its address. SearchIndexError if there is none."""
        return self._rows.get((id, version)) or self._index.row(id)


def _key(tile: dict[str, Any]) -> tuple[str, str]:
    return tile["id"], tile["thumbnail"].partition("?")[2]
