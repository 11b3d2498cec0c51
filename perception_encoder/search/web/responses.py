"""What the page's routes share: how one is added, how errors are answered, and lines of JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from perception_encoder.errors import InputError, detached
from perception_encoder.models.registry import demo_note
from perception_encoder.serving.batching import QueueFullError
from perception_encoder.serving.parsing import ApiError

if TYPE_CHECKING:
    from fastapi import Request, Response

Get = Callable[[str, Callable[["Request"], Any]], None]
"""Adds a route whose answer is computed in a thread."""
LINES = "application/x-ndjson"
"""The type of an answer in lines of JSON."""


def error_response(error: Exception) -> Response:
    """Return an error for the page: `{"error"}`, with status 404 for a file that cannot be used, 429 for a full queue,
    that of an ApiError, or 400."""
    from fastapi.responses import JSONResponse

    status = 400
    if isinstance(error, ApiError):
        status = error.status
    elif isinstance(error, (QueueFullError, InputError)):
        status = 429 if isinstance(error, QueueFullError) else 404
    return JSONResponse({"error": str(detached(error))}, status)


def model_fields(name: str) -> dict[str, str]:
    """Return the fields of an answer that name its model and, of a demo, say how to choose a published one."""
    note = demo_note(name)
    return {"model": name, **({"note": note} if note else {})}


def json_line(content: dict[str, Any]) -> bytes:
    """Return one of the lines of an answer."""
    return json.dumps(content).encode() + b"\n"
