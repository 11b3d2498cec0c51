"""Signed ids of rows for the page's addresses, which cannot be computed from a file's name."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from typing import Any

from perception_encoder.errors import SearchIndexError

_SIGNATURE_BYTES = 8


class SignedIds:
    """Signs ids with a secret of this run: an index's ids are hashes of the files' paths, which others may guess."""

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)

    def signed(self, row_id: str) -> str:
        """Return an id with its signature."""
        signature = hmac.new(self._secret, row_id.encode(errors="replace"), hashlib.sha256).hexdigest()
        return f"{row_id}-{signature[: 2 * _SIGNATURE_BYTES]}"

    def sign(self, tiles: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the tiles of `as_tiles` with signed ids, also in the thumbnails' addresses."""
        return [
            {
                **tile,
                "id": (signed := self.signed(tile["id"])),
                "thumbnail": tile["thumbnail"].replace(tile["id"], signed, 1),
            }
            for tile in tiles
        ]

    def check(self, signed: str) -> str:
        """Return the row's id; SearchIndexError if this run did not sign it, whether or not the row exists."""
        row_id = signed.rpartition("-")[0]
        if not hmac.compare_digest(self.signed(row_id).encode(), signed.encode(errors="replace")):
            raise SearchIndexError("the address is of an earlier run of pe serve; search for the image again")
        return row_id
