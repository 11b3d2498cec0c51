"""Ids of rows as the page's addresses have them, which nobody can compute who knows a file's name."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from perception_encoder.errors import SearchIndexError
from perception_encoder.search.query.asked import AskedTerm

_SIGNATURE_BYTES = 8


class SignedIds:
    """Signs ids with a secret of this run: an id in the index is a hash of the file's path, which others may guess."""

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)

    def _signed(self, id: str) -> str:
        signature = hmac.new(self._secret, id.encode(errors="replace"), hashlib.sha256).hexdigest()
        return f"{id}-{signature[: 2 * _SIGNATURE_BYTES]}"

    def sign(self, tiles: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """Tiles of `as_tiles` with signed ids, in the thumbnails' addresses too."""
        return [
            {**tile, "id": (id := self._signed(tile["id"])), "thumbnail": tile["thumbnail"].replace(tile["id"], id, 1)}
            for tile in tiles
        ]

    def check(self, signed: str) -> str:
        """The row's id; SearchIndexError if this run did not sign it, whether or not there is such a row."""
        id = signed.rpartition("-")[0]
        if not hmac.compare_digest(self._signed(id).encode(), signed.encode(errors="replace")):
            raise SearchIndexError("the address is of an earlier run of pe serve; look for the image again")
        return id

    def checked(self, term: AskedTerm) -> AskedTerm:
        """A term whose id, if it has one, is the row's."""
        return replace(term, what=self.check(term.what)) if term.kind == "like" else term
