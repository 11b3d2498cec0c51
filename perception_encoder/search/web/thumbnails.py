"""Thumbnails of the tiles that an answer named, read together: each of them alone would take as long as all."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from perception_encoder.search.index.index import Index
from perception_encoder.search.index.rows import Row, among
from perception_encoder.search.web.library import as_tiles

_KEPT = 2048  # about 20 MiB


class Thumbnails:
    """The rows, with their thumbnails, behind the addresses that `as_tiles` gives; threads may share it."""

    def __init__(self, index: Index) -> None:
        self._index, self._lock = index, threading.Lock()
        self._rows: dict[tuple[str, str], Row] = {}  # by id and what follows the address's "?"; the oldest first

    def tiles(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """`as_tiles`, with the thumbnails of all read that are not here yet."""
        tiles = as_tiles(rows)
        wanted = {key[0]: key for tile in tiles if (key := _key(tile)) not in self._rows}
        if wanted:
            found = self._index.rows(among("id", wanted), thumbnails=True)
            with self._lock:
                self._rows |= {key: row for row in found if (key := _key(as_tiles([vars(row)])[0])) == wanted[row.id]}
                for oldest in list(self._rows)[:-_KEPT]:
                    del self._rows[oldest]
        return tiles

    def row(self, id: str, asked: str) -> Row:
        """The row of an id; `asked`: what follows the "?" of its thumbnail's address. SearchIndexError if missing."""
        return self._rows.get((id, asked)) or self._index.row(id)


def _key(tile: dict[str, Any]) -> tuple[str, str]:
    return tile["id"], tile["thumbnail"].partition("?")[2]
