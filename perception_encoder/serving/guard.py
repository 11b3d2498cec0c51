"""Protect a server from other web pages and, if it has a key, from everyone without it."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from perception_encoder.serving.parsing import ApiError

if TYPE_CHECKING:
    from fastapi import FastAPI, Request, Response

HOSTS = ("localhost", "127.0.0.1", "[::1]")
"""Names of this machine for itself."""
HANG_UP = {"Connection": "close"}
"""Header of an answer to a request that is too long: the rest is not read."""
_HEADERS = {"Cross-Origin-Resource-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin"}
_REFUSED = {"Cache-Control": "no-store", "WWW-Authenticate": "Bearer"}
_KEY_NEEDED = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Key needed</title>
<h1>This page needs its key</h1>
<p>Open the address that the server printed, or enter the key from that address.</p>
<form action="/"><label>Key <input name="key" type="password" autocomplete="off" required autofocus></label>
<button>Open</button></form>
<p>Did you follow a link to that address? <a href="/">Continue</a></p>
</html>
"""


def guard(
    app: FastAPI,
    headers: Mapping[str, str] | None = None,
    hosts: tuple[str, ...] | None = HOSTS,
    key: str | None = None,
    origins: tuple[str, ...] = (),
) -> None:
    """Answer only under some host names, refuse requests of other pages, and add `headers` to every answer.

    Otherwise another page could have the browser post here, learn from an answer's status or size what exists, or reach
    this server under its own host name and read it. It may only link to this page. `hosts`: None for an API with a
    key, which clients reach under any name and other pages do not know. `key`: every request needs it, on this machine
    too, as a proxy may pass on requests of others. `origins`: of pages that may send requests and read the answers.
    """
    from fastapi.middleware.cors import CORSMiddleware
    from fastapi.middleware.trustedhost import TrustedHostMiddleware
    from fastapi.responses import JSONResponse

    every = {**_HEADERS, **(headers or {})}
    if key is not None:
        _require_key(app, key)
    if hosts is not None:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*hosts])

    @app.middleware("http")  # the outermost
    async def refuse(request: Request, call_next: Any) -> Response:
        if hosts is not None and request.headers.get("origin") not in origins and _is_foreign(request):
            return JSONResponse({"error": "requested by another page"}, 403, every)
        response: Response = await call_next(request)
        response.headers.update(every)
        return response

    if origins:
        app.add_middleware(CORSMiddleware, allow_origins=[*origins], allow_methods=["GET", "POST"], allow_headers=["*"])

    @app.exception_handler(Exception)
    async def fail(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": "the server failed; its log says why"}, 500, every)


def has_key(request: Request, key: str) -> bool:
    """Whether a request has the header `Authorization: Bearer KEY`; compared in constant time."""
    return hmac.compare_digest(request.headers.get("authorization", "").encode("latin-1"), f"Bearer {key}".encode())


def check_key(request: Request, key: str | None) -> None:
    """Raise ApiError unless the request brings the key."""
    if key is not None and not has_key(request, key):
        raise ApiError(401, "a key is needed: Authorization: Bearer KEY")


def _require_key(app: FastAPI, key: str) -> None:
    """Answer 401 to every request without the key.

    A browser brings it once, as `/?key=KEY`, and gets a cookie and the address without the key. Other clients send the
    header that `has_key` wants.
    """
    from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse

    token = hmac.new(key.encode(), b"the cookie of pe serve", hashlib.sha256).hexdigest()
    cookie = f"pe-{token[:8]}"  # servers of one machine share their cookies, whatever their ports

    @app.middleware("http")
    async def admit(request: Request, call_next: Any) -> Response:
        response: Response
        address_key = request.query_params.get("key") if request.url.path == "/" else None
        if address_key is not None and hmac.compare_digest(address_key.encode(errors="replace"), key.encode()):
            rest = [(name, value) for name, value in request.query_params.multi_items() if name != "key"]
            address = f"/?{urlencode(rest, quote_via=quote)}" if rest else "/"
            response = RedirectResponse(address, 303, {"Cache-Control": "no-store"})
            response.set_cookie(cookie, token, httponly=True, samesite="strict")
            return response
        has_cookie = hmac.compare_digest(request.cookies.get(cookie, "").encode(errors="replace"), token.encode())
        if address_key is None and (has_cookie or has_key(request, key)):
            response = await call_next(request)
            return response
        if "text/html" in request.headers.get("accept", ""):
            return HTMLResponse(_KEY_NEEDED, 401, _REFUSED)
        return JSONResponse({"error": "a key is needed; open the address that the server printed"}, 401, _REFUSED)


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
