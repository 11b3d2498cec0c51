"""What keeps other web pages away from a server of this machine, where no key does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastapi import FastAPI, Request, Response

HOSTS = ("localhost", "127.0.0.1", "[::1]")
"""Names that this machine has for itself."""
HANG_UP = {"Connection": "close"}
"""Header of an answer to what is too long: the rest of it is not read."""


def guard(app: FastAPI, headers: Mapping[str, str] | None = None, hosts: tuple[str, ...] = HOSTS) -> None:
    """Answer under the machine's own names only, refuse what another page posts, and add `headers` to every answer.

    A page elsewhere could else have a browser post here, or reach this server under a name of its own and read it.
    """
    from fastapi.middleware.trustedhost import TrustedHostMiddleware
    from fastapi.responses import JSONResponse

    @app.middleware("http")
    async def refuse(request: Request, call_next: Any) -> Response:
        origin = request.headers.get("origin")
        if request.method == "POST" and origin and origin.partition("://")[2] != request.headers.get("host"):
            return JSONResponse({"error": "asked by another page"}, 403)
        response: Response = await call_next(request)
        response.headers.update(headers or {})
        return response

    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*hosts])
