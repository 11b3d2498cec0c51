"""Run a server with limits on its connections and its memory."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import secrets
import socket
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from perception_encoder.errors import ConfigError, MissingExtraError
from perception_encoder.models.memory import limit_memory, trim_memory

if TYPE_CHECKING:
    import uvicorn

HEAD_SECONDS = 10.0
"""For the head of a request to arrive."""
STOP_SECONDS = 5
"""For requests in progress to end once the server is stopped; streams are cut off then."""
MOST_CONNECTIONS = 1000
"""Open at the same time; beyond it the connection without a request for the longest time is closed."""
_TRIM_SECONDS = 5.0
_FILES = 4096  # descriptors of a server: connections, and files


def listen(host: str, port: int) -> socket.socket:
    """Listen on a port (0: a free one); ConfigError if it is taken, or if the address is not this machine's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host.strip("[]"), port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(f"port {port} of {host} is taken; choose another with --port") from None
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
    return listener


def reachable_names(host: str) -> tuple[str, ...]:
    """Return the names under which other machines reach a server on `host`, best first; sends nothing to find out.

    For all addresses ("0.0.0.0" or "::"): the address of the default route, and the machine's name.
    """
    if host not in ("0.0.0.0", "::"):
        return (f"[{host}]" if ":" in host else host,)
    name = socket.gethostname().lower()
    names = (name, f"{name}.local")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):  # OSError: no network
        probe.connect(("192.0.2.1", 9))  # chooses a route alone; the address is for documentation (RFC 5737)
        return (str(probe.getsockname()[0]), *names)
    return names


def choose_key(host: str, lan: bool, key: str | None) -> str | None:
    """Return the given key, which is always needed, or a new one for --lan; ConfigError if others could do without."""
    if key == "":
        raise ConfigError("the key is empty; give one, or leave out --key")
    if is_loopback(host):
        if lan:
            raise ConfigError(f"only this machine can reach {host}; leave out --lan or --host")
        return key
    if not key and not lan:
        raise ConfigError(f"other devices can reach {host}; set a --key, or let --lan make one")
    return key or secrets.token_urlsafe(16)


def page_address(name: str, listener: socket.socket, key: str | None) -> str:
    """Return the address at which a browser opens a page, with its key; see `guard`."""
    path = f"/?key={quote(key, safe='')}" if key else ""
    return f"http://{name}:{listener.getsockname()[1]}{path}"


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
    threading.Thread(target=_trim_for_ever, daemon=True).start()
    server.run(sockets=[listener])


def _trim_for_ever() -> None:
    while True:
        time.sleep(_TRIM_SECONDS)
        trim_memory()


def limited_server(app: Any) -> uvicorn.Server:
    """Create uvicorn's server with limits on connections; MissingExtraError without uvicorn."""
    try:
        import uvicorn
    except ImportError:
        raise MissingExtraError("uvicorn", "search") from None
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
    """Limit uvicorn's protocol, which waits for ever for the rest of a head and accepts any number of connections."""
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    base: Any = AutoHTTPProtocol

    class LimitedProtocol(base):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._since, self._timer = time.monotonic(), None
            connections = [each for each in self.connections if not each.transport.is_closing()]
            if len(connections) > MOST_CONNECTIONS:
                idle = [each for each in connections if each._waits()]
                min(idle, key=lambda each: each._since, default=self).transport.close()
            self._watch_head()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch_head()

        def connection_lost(self, reason: Exception | None) -> None:
            if self._timer is not None:
                self._timer.cancel()
            super().connection_lost(reason)

        def _waits(self) -> bool:
            """Whether no request is in progress."""
            return self.cycle is None or self.cycle.response_complete

        def _watch_head(self) -> None:
            if not self._waits():
                if self._timer is not None:
                    self._timer.cancel()
                self._timer = None
            elif self._timer is None:
                self._since = time.monotonic()
                self._timer = self.loop.call_later(HEAD_SECONDS, self._give_up)

        def _give_up(self) -> None:
            self._timer = None
            if self._waits() and not self.transport.is_closing():
                self.transport.close()

    return LimitedProtocol


def raise_file_limit() -> None:
    """Allow this process some thousand files and connections if the system permits; the default is often 1,024."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < limit:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
