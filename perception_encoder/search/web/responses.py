"""Helpers of the page's routes: adding routes, errors, lines of JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from perception_encoder.errors import InputError, detached
from perception_encoder.models.registry import demo_note
from perception_encoder.serving.http import ApiError
from perception_encoder.serving.queues import QueueFullError

if TYPE_CHECKING:
    from fastapi import Request, Response

import hashlib
import hmac
import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from perception_encoder.errors import SearchIndexError

Get = Callable[[str, Callable[["Request"], Any]], None]
"""Adds a route that computes its answer in a thread."""
LINES = "application/x-ndjson"
"""Content type of an answer in lines of JSON."""


def error_response(error: Exception) -> Response:
    """Return an error for the page, `{"error"}`: 404 for an unusable file, 429 for a full queue, else 400."""
    from fastapi.responses import JSONResponse

    status = 400
    if isinstance(error, ApiError):
        status = error.status
    elif isinstance(error, (QueueFullError, InputError)):
        status = 429 if isinstance(error, QueueFullError) else 404
    return JSONResponse({"error": str(detached(error))}, status)


def model_fields(name: str) -> dict[str, str]:
    """Return the fields of an answer that name its model and, for a demo, say how to choose a published one."""
    note = demo_note(name)
    return {"model": name, **({"note": note} if note else {})}


def json_line(content: dict[str, Any]) -> bytes:
    """Return a line of JSON."""
    return json.dumps(content).encode() + b"\n"


_SIGNATURE_BYTES, _SECRET_BYTES = 8, 32


def stored_secret(path: Path) -> bytes | None:
    """Return the secret in a file, creating it if missing; None if the file cannot be read or written."""
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
    """Signs ids with a secret, by default this run's: an index's ids are hashes of paths, which others could guess."""

    def __init__(self, secret: bytes | None = None) -> None:
        self._secret = secret or secrets.token_bytes(32)

    def signed(self, row_id: str) -> str:
        """Return an id with its signature."""
        signature = hmac.new(self._secret, row_id.encode(errors="replace"), hashlib.sha256).hexdigest()
        return f"{row_id}-{signature[: 2 * _SIGNATURE_BYTES]}"

    def sign(self, tiles: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """Sign the ids in tiles of `as_tiles`, also in the thumbnails' addresses."""
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
            raise SearchIndexError("this address is from an earlier run of pe serve; search for the image again")
        return row_id
