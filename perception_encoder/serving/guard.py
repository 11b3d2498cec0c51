"""Protect a server of this machine from other web pages, unless it has a key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastapi import FastAPI, Request, Response

HOSTS = ("localhost", "127.0.0.1", "[::1]")
"""Names of this machine for itself."""
HANG_UP = {"Connection": "close"}
"""Header of an answer to a request that is too long: the rest is not read."""
_HEADERS = {"Cross-Origin-Resource-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin"}


def guard(app: FastAPI, headers: Mapping[str, str] | None = None, hosts: tuple[str, ...] | None = HOSTS) -> None:
    """Answer only under some host names, refuse requests of other pages, and add `headers` to every answer.

    Otherwise another page could have the browser post here, learn from an answer's status or size what exists, or reach
    this server under its own host name and read it. It may only link to this page. `hosts`: None for a server with a
    key, which clients reach under any name and other pages do not know.
    """
    from fastapi.middleware.trustedhost import TrustedHostMiddleware
    from fastapi.responses import JSONResponse

    every = {**_HEADERS, **(headers or {})}
    if hosts is not None:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*hosts])

    @app.middleware("http")  # the outermost
    async def refuse(request: Request, call_next: Any) -> Response:
        if hosts is not None and _is_foreign(request):
            return JSONResponse({"error": "requested by another page"}, 403, every)
        response: Response = await call_next(request)
        response.headers.update(every)
        return response

    @app.exception_handler(Exception)
    async def fail(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": "the server failed; its log says why"}, 500, every)


def _is_foreign(request: Request) -> bool:
    """Whether another page sent a request, except by a link that opens this one."""
    origin = request.headers.get("origin")
    if request.method == "POST" and origin and origin.partition("://")[2] != request.headers.get("host"):
        return True
    fetched = {name: request.headers.get(f"sec-fetch-{name}") for name in ("site", "mode", "dest")}
    if fetched["site"] in (None, "same-origin", "none"):
        return False
    opens = (fetched["mode"], fetched["dest"]) == ("navigate", "document")
    return not (opens and request.method == "GET" and request.url.path == "/")
