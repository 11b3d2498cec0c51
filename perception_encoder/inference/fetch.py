"""Pictures and videos by URL: http and https, within limits, and only from public addresses unless allowed.

The address is looked up once and checked, and the connection goes to that very address, so a name that resolves to
something else a moment later gains nothing; each redirect is checked again. Proxies of the environment are not used.
"""

from __future__ import annotations

import http.client
import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from perception_encoder.errors import InputError, MediaNotFoundError, MediaTooLargeError, UrlRefusedError
from perception_encoder.preprocess.source import escape_name, one_line

_PIECE = 1 << 16
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")


@dataclass(frozen=True, kw_only=True)
class FetchLimits:
    """What a download may cost, and where it may go."""

    max_bytes: int = 256 << 20
    seconds: float = 60.0
    """For everything, redirects included."""
    redirects: int = 5
    allow_private: bool = False
    """Let private, loopback, link-local and reserved addresses be asked."""


def is_url(text: str) -> bool:
    """Whether a text is a URL of any scheme, and nothing besides."""
    return _URL.fullmatch(text) is not None


def fetch(url: str, limits: FetchLimits | None = None) -> bytes:
    """Download one picture or video.

    Raises UrlRefusedError (scheme, address, a password in it), MediaNotFoundError (no answer, or no success) and
    MediaTooLargeError (bytes or seconds over the limit).
    """
    limits = limits or FetchLimits()
    deadline = time.monotonic() + limits.seconds
    name, asked = escape_name(url), url
    for _ in range(limits.redirects + 1):
        try:
            answer = _ask(asked, name, limits, deadline)
        except InputError:
            raise
        except (OSError, http.client.HTTPException, ValueError) as error:
            if time.monotonic() >= deadline:
                raise _too_slow(name, limits) from None
            raise MediaNotFoundError(name, f"cannot be fetched: {one_line(error)}") from None
        if isinstance(answer, bytes):
            return answer
        asked = urljoin(asked, answer.location)
    raise UrlRefusedError(name, f"redirects more than {limits.redirects} times")


@dataclass(frozen=True)
class _Redirect:
    location: str


def _ask(url: str, name: str, limits: FetchLimits, deadline: float) -> bytes | _Redirect:
    parts, port = _split(url, name)
    family, address = _public_address(parts.hostname or "", port, name, limits.allow_private)
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~")
    query = quote(parts.query, safe="/%:@!$&'()*+,;=~?")
    headers = {"User-Agent": "perception-encoder", "Accept": "image/*, video/*, */*;q=0.5", "Connection": "close"}
    with _connect(family, address, parts, port, deadline) as connection:
        connection.request("GET", f"{path}?{query}" if query else path, headers=headers)
        with connection.getresponse() as response:
            if response.status in (301, 302, 303, 307, 308) and "Location" in response.headers:
                return _Redirect(response.headers["Location"])
            if response.status != 200:
                raise MediaNotFoundError(name, f"the server answered {response.status} {response.reason}".rstrip())
            body = _read(response, name, limits)
    if time.monotonic() >= deadline:  # a body without a length ends like a whole one when it is cut
        raise _too_slow(name, limits)
    return body


def _split(url: str, name: str) -> tuple[SplitResult, int]:
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    except ValueError as error:
        raise UrlRefusedError(name, f"is malformed: {one_line(error)}") from None
    if parts.scheme not in ("http", "https"):
        raise UrlRefusedError(name, f"{parts.scheme}: is not fetched, only http: and https: are")
    if not parts.hostname:
        raise UrlRefusedError(name, "names no host")
    if "@" in parts.netloc:
        raise UrlRefusedError(name.replace(parts.netloc.rpartition("@")[0], "…"), "holds a user name or a password")
    return parts, port


def _public_address(host: str, port: int, name: str, allow_private: bool) -> tuple[int, tuple]:
    """The family and socket address to connect to: a host's first; unless allowed, all of them must be public."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise MediaNotFoundError(name, f"{host} has no address: {one_line(error)}") from None
    for *_, address in found:
        if not allow_private and not is_public(str(address[0])):
            raise UrlRefusedError(name, f"leads to {address[0]}, which is no public address")
    family, _, _, _, address = found[0]
    return family, address


def is_public(address: str) -> bool:
    """Whether an IP address, and any IPv4 address that it wraps, is one of the public internet."""
    outer = ipaddress.ip_address(address.partition("%")[0])
    wrapped: list[ipaddress.IPv4Address | None] = []
    if isinstance(outer, ipaddress.IPv6Address):
        wrapped = [outer.ipv4_mapped, outer.sixtofour, *(outer.teredo or ())]
        if outer in _NAT64:
            wrapped.append(ipaddress.IPv4Address(int(outer) & 0xFFFFFFFF))
    inner = [each for each in wrapped if each is not None]
    addresses = inner if isinstance(outer, ipaddress.IPv6Address) and outer.ipv4_mapped else [outer, *inner]
    return all(each.is_global and not each.is_multicast for each in addresses)


@contextmanager
def _connect(
    family: int, address: tuple, parts: SplitResult, port: int, deadline: float
) -> Iterator[http.client.HTTPConnection]:
    """Connect to that address; at the deadline the connection is cut, whatever it is waiting for."""
    host = parts.hostname or ""
    left = max(0.001, deadline - time.monotonic())
    with socket.socket(family, socket.SOCK_STREAM) as plain:
        plain.settimeout(left)
        plain.connect(address)
        with plain.dup() as guard:
            timer = threading.Timer(max(0.001, deadline - time.monotonic()), _cut, [guard])
            timer.daemon = True
            timer.start()
            try:
                if parts.scheme == "https":
                    connection: http.client.HTTPConnection = http.client.HTTPSConnection(host, port)
                    connection.sock = ssl.create_default_context().wrap_socket(plain, server_hostname=host)
                else:
                    connection = http.client.HTTPConnection(host, port)
                    connection.sock = plain
                with closing(connection):
                    yield connection
            finally:
                timer.cancel()
                timer.join()


def _cut(guard: socket.socket) -> None:
    with suppress(OSError):
        guard.shutdown(socket.SHUT_RDWR)


def _read(response: http.client.HTTPResponse, name: str, limits: FetchLimits) -> bytes:
    declared = response.length  # None where the server does not say
    if declared is not None and declared > limits.max_bytes:
        raise MediaTooLargeError(name, f"has {declared:,} bytes; the limit is {limits.max_bytes:,}")
    body = bytearray()
    while piece := response.read(_PIECE):
        body += piece
        if len(body) > limits.max_bytes:
            raise MediaTooLargeError(name, f"has more than {limits.max_bytes:,} bytes, the limit")
    if declared is not None and len(body) < declared:
        raise ConnectionError(f"the answer broke off after {len(body):,} of {declared:,} bytes")
    return bytes(body)


def _too_slow(name: str, limits: FetchLimits) -> MediaTooLargeError:
    return MediaTooLargeError(name, f"took more than {limits.seconds:g} s, the limit")
