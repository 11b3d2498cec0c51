"""Signed ids of rows for the page's addresses, which cannot be computed from a file's name."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from perception_encoder.errors import SearchIndexError

_SIGNATURE_BYTES, _SECRET_BYTES = 8, 32


def stored_secret(path: Path) -> bytes | None:
    """Return the secret in a file, which is made if it is missing; None if the file cannot be read or written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(descriptor, "wb") as file:
                file.write(secrets.token_bytes(_SECRET_BYTES))
        secret = path.read_bytes()
    except OSError:
        return None
    return secret if len(secret) == _SECRET_BYTES else None


class SignedIds:
    """Signs ids with a secret, by default of this run: an index's ids are hashes of paths, which others may guess."""

    def __init__(self, secret: bytes | None = None) -> None:
        self._secret = secret or secrets.token_bytes(32)

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
