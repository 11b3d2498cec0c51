"""Helpers of the page's routes: the type that adds one, the stored secret, and the ids that it signs."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perception_encoder.errors import SearchIndexError

if TYPE_CHECKING:
    from fastapi import Request

Get = Callable[[str, Callable[["Request"], Any]], None]
"""Adds a route that computes its answer in a thread."""


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
