"""Run a server with limits on connections and memory, protected from other web pages and, with a key, strangers."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import hmac
import ipaddress
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote, urlencode

from perception_encoder.errors import ConfigError, MissingExtraError, PerceptionEncoderError, needs_extra, one_line
from perception_encoder.models.memory import limit_memory, trim_memory
from perception_encoder.web_server.http import ApiError, as_api_error

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    import uvicorn
    from fastapi import FastAPI, Request, Response

HEAD_SECONDS = 10.0
"""Maximum seconds for the head of a request to arrive."""
STOP_SECONDS = 5
"""Seconds for requests to finish after the server is stopped; then streams are cut off."""
MAX_CONNECTIONS = 1000
"""Maximum number of open connections; above it the connection that has been idle longest is closed."""
_TRIM_SECONDS = 5.0
_FILES = 4096  # file descriptors: connections and files


def listen(host: str, port: int) -> socket.socket:
    """Listen on a port (0: any free one); ConfigError if it is taken or the address is not this machine's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host.strip("[]"), port))
        listener.listen(2048)
    except (OSError, OverflowError) as error:  # the latter for a port that no machine has
        listener.close()
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            raise ConfigError(f"port {port} of {host} is taken; choose another with --port") from None
        raise ConfigError(f"cannot listen on {host}:{port}: {one_line(error)}") from None
    return listener


def reachable_names(host: str) -> tuple[str, ...]:
    """Return the names by which other machines can reach a server on `host`, best first, without network traffic.

    For all addresses ("0.0.0.0" or "::"), these are the address of the default route and the machine's name.
    """
    if host not in ("0.0.0.0", "::"):
        return (f"[{host}]" if ":" in host else host,)
    name = socket.gethostname().lower()
    names = (name, f"{name}.local")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):  # OSError: no network
        probe.connect(("192.0.2.1", 9))  # only chooses a route; the address is reserved for documentation (RFC 5737)
        return (str(probe.getsockname()[0]), *names)
    return names


def choose_key(host: str, lan: bool, key: str | None, public: bool = False) -> str | None:
    """Return the given key or, for --lan, a new one; ConfigError if other machines could connect without a key.

    `public`: they may, as the server shows nothing of this machine.
    """
    if key == "":
        raise ConfigError("the key is empty; give one, or leave out --key")
    if is_loopback(host):
        if lan:
            raise ConfigError(f"only this machine can reach {host}; leave out --lan or --host")
        return key
    if not key and not lan:
        if public:
            return None
        raise ConfigError(f"other devices can reach {host}; set a --key, or let --lan make one")
    return key or secrets.token_urlsafe(16)


@dataclass(frozen=True)
class Place:
    """Where a server listens, its names, the best first, and the key that its requests need."""

    listener: socket.socket
    hosts: tuple[str, ...]
    key: str | None

    def address(self, with_key: bool = True) -> str:
        """Return the address for a browser, with the key: see `guard`."""
        path = f"/?key={quote(self.key, safe='')}" if self.key and with_key else ""
        return f"http://{self.hosts[0]}:{self.listener.getsockname()[1]}{path}"


@contextmanager
def listening(host: str | None, port: int, lan: bool, key: str | None, public: bool = False) -> Iterator[Place]:
    """Listen, by default for this machine or, with `lan`, its network; raises what `choose_key` and `listen` do.

    MissingExtraError without uvicorn.
    """
    if find_spec("uvicorn") is None:
        raise MissingExtraError("uvicorn", "search")
    host = host or ("0.0.0.0" if lan else "127.0.0.1")
    key = choose_key(host, lan, key, public)
    with listen(host, port) as listener:
        yield Place(listener, (*reachable_names(host), host, *HOSTS), key)


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def run_server(app: Any, listener: socket.socket) -> None:
    """Serve an app on a socket of `listen` until the process is stopped; MissingExtraError without uvicorn."""
    server = limited_server(app)
    raise_file_limit()
    limit_memory()
    threading.Thread(target=_trim_forever, daemon=True).start()
    server.run(sockets=[listener])


def _trim_forever() -> None:
    while True:
        time.sleep(_TRIM_SECONDS)
        trim_memory()


def limited_server(app: Any) -> uvicorn.Server:
    """Create uvicorn's server with limits on connections; MissingExtraError without uvicorn."""
    with needs_extra("search", "uvicorn"):
        import uvicorn
    return uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="warning",
            timeout_keep_alive=5,
            timeout_graceful_shutdown=STOP_SECONDS,
            access_log=False,
            http=_limited_protocol(),
        )
    )


def _limited_protocol() -> type[asyncio.Protocol]:  # noqa: C901 - a class of short methods
    """Limit uvicorn's protocol, which otherwise waits forever for a head and accepts any number of connections."""
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    base: Any = AutoHTTPProtocol

    class LimitedProtocol(base):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            # else the second part of an answer waits 40 ms for the client to confirm the first
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._since, self._timer = time.monotonic(), None
            connections = [other for other in self.connections if not other.transport.is_closing()]
            if len(connections) > MAX_CONNECTIONS:
                idle = [other for other in connections if other._is_idle()]
                min(idle, key=lambda other: other._since, default=self).transport.close()
            self._watch_head()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch_head()

        def connection_lost(self, reason: Exception | None) -> None:
            if self._timer is not None:
                self._timer.cancel()
            super().connection_lost(reason)

        def _is_idle(self) -> bool:
            return self.cycle is None or self.cycle.response_complete

        def _watch_head(self) -> None:
            if not self._is_idle():
                if self._timer is not None:
                    self._timer.cancel()
                self._timer = None
            elif self._timer is None:
                self._since = time.monotonic()
                self._timer = self.loop.call_later(HEAD_SECONDS, self._give_up)

        def _give_up(self) -> None:
            self._timer = None
            if self._is_idle() and not self.transport.is_closing():
                self.transport.close()

    return LimitedProtocol


def raise_file_limit() -> None:
    """Allow this process several thousand files and connections if the system permits; the default is often 1,024."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < limit:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


HOSTS = ("localhost", "127.0.0.1", "[::1]")
"""Names of this machine for itself."""
HANG_UP = {"Connection": "close"}
"""Header of an error: the connection is closed, since part of the request may still be unread."""
_HEADERS = {"Cross-Origin-Resource-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin"}
_POLICY = "default-src 'none'; img-src 'self' data: blob:; media-src 'self' blob:; style-src 'self'; "
_POLICY += "script-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
_PAGE_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
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


def create_page_app(
    assets: Traversable, values: Callable[[], Mapping[str, object]], hosts: tuple[str, ...], key: str | None
) -> FastAPI:
    """Create the app of a page: its template `page.html`, its other files below /static, and errors as {"error"}.

    Raises MissingExtraError.

    Args:
        values: Of the template.
        hosts, key: See `guard`.
    """
    with needs_extra("search"):
        import fastapi
        import jinja2
        from fastapi.responses import HTMLResponse, JSONResponse, Response
    app = fastapi.FastAPI(title="perception-encoder", docs_url=None, redoc_url=None, openapi_url=None)
    template = jinja2.Environment(autoescape=True).from_string((assets / "page.html").read_text(encoding="utf-8"))
    names = {file.name for file in assets.iterdir() if file.name.endswith((".css", ".js"))}

    async def page(request: Request) -> Response:
        return HTMLResponse(template.render(values()), headers={"Cache-Control": "no-store"})

    async def asset(request: Request) -> Response:
        if (name := request.path_params["name"]) not in names:
            raise ApiError(404, "no such file")
        kind = "text/css" if name.endswith(".css") else "text/javascript"
        return Response((assets / name).read_bytes(), media_type=kind)

    async def refuse(request: Request, error: Exception) -> Response:
        refused = as_api_error(cast("ApiError", error))
        return JSONResponse({"error": str(refused)}, refused.status, HANG_UP if isinstance(error, ApiError) else None)

    for kind in (ApiError, PerceptionEncoderError):
        app.add_exception_handler(kind, refuse)
    app.router.add_route("/", page)
    app.router.add_route("/static/{name}", asset)
    guard(app, _PAGE_HEADERS, hosts, key)
    return app


def guard(
    app: FastAPI,
    headers: Mapping[str, str] | None = None,
    hosts: tuple[str, ...] | None = HOSTS,
    key: str | None = None,
    origins: tuple[str, ...] = (),
    pages: bool = True,
) -> None:
    """Answer only under these host names, reject requests from other web pages, and add `headers` to every answer.

    Otherwise another page could make the browser post here, learn what exists from the status or size of an answer, or
    reach this server under a host name of its own and read it. Other pages may only link to this one.

    Args:
        hosts: None for an API that clients reach under any name.
        key: Required from every request, even from this machine, as a proxy may forward requests of others.
        origins: Pages that may send requests and read the answers.
        pages: Whether this server's own pages may too; an API without host names and key cannot tell them from others.
    """
    from fastapi.middleware.cors import CORSMiddleware
    from fastapi.middleware.trustedhost import TrustedHostMiddleware
    from fastapi.responses import JSONResponse

    all_headers = {**_HEADERS, **(headers or {})}
    if key is not None:
        _require_key(app, key)
    if hosts is not None:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*hosts])

    @app.middleware("http")  # the outermost
    async def refuse(request: Request, call_next: Any) -> Response:
        origin = request.headers.get("origin")
        if origin not in origins and (_is_foreign(request) or (origin is not None and not pages)):
            return JSONResponse({"error": "requested by another page"}, 403, all_headers)
        response: Response = await call_next(request)
        response.headers.update(all_headers)
        return response

    if origins:
        app.add_middleware(CORSMiddleware, allow_origins=[*origins], allow_methods=["GET", "POST"], allow_headers=["*"])

    @app.exception_handler(Exception)
    async def fail(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": "the server failed; its log says why"}, 500, all_headers)


def has_key(request: Request, key: str) -> bool:
    """Return whether a request has the header `Authorization: Bearer KEY`, compared in constant time."""
    return hmac.compare_digest(request.headers.get("authorization", "").encode("latin-1"), f"Bearer {key}".encode())


def check_key(request: Request, key: str | None) -> None:
    """Raise ApiError for a request without the key."""
    if key is not None and not has_key(request, key):
        raise ApiError(401, "a key is needed: Authorization: Bearer KEY")


def _require_key(app: FastAPI, key: str) -> None:
    """Answer 401 to every request without the key.

    A browser sends it once, as `/?key=KEY`, and gets a cookie and the address without the key. Other clients send the
    header of `has_key`.
    """
    from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse

    token = hmac.new(key.encode(), b"the cookie of pe serve", hashlib.sha256).hexdigest()
    cookie = f"pe-{token[:8]}"  # servers on one machine share cookies, whatever their ports

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
    """Return whether another page sent a request, other than by a link that opens this one."""
    origin = request.headers.get("origin")
    if origin is not None and origin.partition("://")[2] != request.headers.get("host"):
        return True
    metadata = {name: request.headers.get(f"sec-fetch-{name}") for name in ("site", "mode", "dest")}
    if metadata["site"] in (None, "same-origin", "none"):
        return False
    is_link = (metadata["mode"], metadata["dest"]) == ("navigate", "document")
    return not (is_link and request.method == "GET" and request.url.path == "/")
