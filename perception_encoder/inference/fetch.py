"""Fetch images and videos by URL over http and https, within limits of bytes and time.

Proxies of the environment are not used. Any address is fetched: who names it must be trusted.
"""

from __future__ import annotations

import math
import re
import ssl
import time
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from perception_encoder.errors import InputError, MediaNotFoundError, MediaTooLargeError, UrlRefusedError, one_line
from perception_encoder.preprocess.source import escape_name

if TYPE_CHECKING:  # httpx takes long to import, and most runs fetch nothing
    import httpx

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")
_REDIRECTS = 5
_HEADERS = {
    "User-Agent": "perception-encoder",
    "Accept": "image/*, video/*, */*;q=0.5",
    "Accept-Encoding": "identity",
    "Connection": "close",
}


@dataclass(frozen=True, kw_only=True)
class FetchLimits:
    """Limits of a download."""

    max_bytes: int = 256 << 20
    seconds: float = 60.0
    """Maximum time in seconds, including redirects."""


def is_url(text: str) -> bool:
    """Return whether a text is a single URL, of any scheme."""
    return _URL.fullmatch(text) is not None


def fetch(url: str, limits: FetchLimits | None = None, deadline: float = math.inf) -> bytes:
    """Download an image or video until a deadline (`time.monotonic`), which other downloads may share.

    Raises UrlRefusedError (scheme, a password in it), MediaNotFoundError (no answer, or no success) and
    MediaTooLargeError (bytes or seconds over the limit).
    """
    import httpx

    limits = limits or FetchLimits()
    deadline = min(deadline, time.monotonic() + limits.seconds)
    name = escape_name(url)
    try:
        target = httpx.URL(url)
        for _ in range(_REDIRECTS + 1):
            _check_url(target, name)
            answer = _get(target, name, limits.max_bytes, deadline)
            if isinstance(answer, bytes):
                return answer
            target = answer
    except InputError:
        raise
    except httpx.InvalidURL as error:
        raise UrlRefusedError(name, f"is malformed: {one_line(error)}") from None
    except (OSError, httpx.HTTPError, ValueError) as error:
        if time.monotonic() >= deadline:
            raise MediaTooLargeError(name, f"took more than {limits.seconds:g} s, the limit") from None
        raise MediaNotFoundError(name, f"cannot be fetched: {one_line(error)}") from None
    raise UrlRefusedError(name, f"redirects more than {_REDIRECTS} times")


def _check_url(url: httpx.URL, name: str) -> None:
    if url.scheme not in ("http", "https"):
        raise UrlRefusedError(name, f"{url.scheme}: is unsupported; use http: or https:")
    if not url.host:
        raise UrlRefusedError(name, "names no host")
    if url.userinfo:
        raise UrlRefusedError(re.sub("^([^/]*//).*@", r"\1…@", name), "contains a user name or a password")
    if not 0 < (url.port or 80) < 1 << 16:
        raise UrlRefusedError(name, f"is malformed: port {url.port} is not between 1 and 65535")


def _get(url: httpx.URL, name: str, max_bytes: int, deadline: float) -> bytes | httpx.URL:
    """Return the content, or the redirect's target; raises what `fetch` raises and errors of httpx."""
    import httpcore
    import httpx

    context = ssl.create_default_context() if url.scheme == "https" else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    request = httpx.Request("GET", url, headers=_HEADERS)
    with httpx.HTTPTransport(verify=context, trust_env=False) as transport:  # a client would log the address
        backend: Any = _Connections(httpcore.SyncBackend(), deadline)
        transport._pool = httpcore.ConnectionPool(ssl_context=context, network_backend=backend)
        with closing(transport.handle_request(request)) as response:
            if response.has_redirect_location:
                return url.join(response.headers["Location"])
            if response.status_code != 200:
                reason = f"the server answered {response.status_code} {response.reason_phrase}"
                raise MediaNotFoundError(name, reason.rstrip())
            return _read(response, name, max_bytes)


def _read(response: httpx.Response, name: str, max_bytes: int) -> bytes:
    import httpx

    declared = int(response.headers.get("Content-Length", -1))
    if declared > max_bytes:
        raise MediaTooLargeError(name, f"has {declared:,} bytes; the limit is {max_bytes:,}")
    body = bytearray()
    try:
        for piece in response.iter_raw():
            body += piece
            if len(body) > max_bytes:
                raise MediaTooLargeError(name, f"has more than {max_bytes:,} bytes, the limit")
    except httpx.RemoteProtocolError:
        if len(body) >= declared:
            raise
        raise ConnectionError(f"the answer broke off after {len(body):,} of {declared:,} bytes") from None
    return bytes(body)


class _Connections:
    """Opens and uses connections, as `httpcore.NetworkBackend` and `httpcore.NetworkStream` do, until a deadline:
    their own timeouts begin anew with every byte that arrives."""

    def __init__(self, inner: Any, deadline: float) -> None:
        self._inner, self._deadline = inner, deadline

    def connect_tcp(self, host: str, port: int, timeout: object = None, **options: Any) -> _Connections:
        return _Connections(self._inner.connect_tcp(host, port, self._left(), **options), self._deadline)

    def start_tls(self, ssl_context: ssl.SSLContext, server_hostname: str | None, timeout: object) -> _Connections:
        return _Connections(self._inner.start_tls(ssl_context, server_hostname, self._left()), self._deadline)

    def read(self, max_bytes: int, timeout: object = None) -> bytes:
        content: bytes = self._inner.read(max_bytes, self._left())
        return content

    def write(self, buffer: bytes, timeout: object = None) -> None:
        self._inner.write(buffer, self._left())

    def close(self) -> None:
        self._inner.close()

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)

    def _left(self) -> float:
        seconds = self._deadline - time.monotonic()
        if seconds <= 0:
            raise TimeoutError("the time limit was reached")
        return seconds
