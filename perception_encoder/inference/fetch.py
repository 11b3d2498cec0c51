"""Fetch images and videos by URL over http and https, within limits, by default only from public addresses.

The connection goes to the very address that was checked, so a name that resolves to another one a moment later (DNS
rebinding) gains nothing. Redirects are checked too. Proxies of the environment are not used.
"""

from __future__ import annotations

import ipaddress
import math
import re
import socket
import ssl
import time
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import httpcore
import httpx

from perception_encoder.errors import InputError, MediaNotFoundError, MediaTooLargeError, UrlRefusedError, one_line
from perception_encoder.preprocess.source import escape_name

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def is_public(address: str) -> bool:
    """Return whether an IP address, and any IPv4 address that it wraps, is public."""
    outer = ipaddress.ip_address(address.partition("%")[0])
    wrapped: list[ipaddress.IPv4Address | None] = []
    if isinstance(outer, ipaddress.IPv6Address):
        wrapped = [outer.ipv4_mapped, outer.sixtofour, *(outer.teredo or ())]
        if outer in _NAT64:
            wrapped.append(ipaddress.IPv4Address(int(outer) & 0xFFFFFFFF))
    inner = [item for item in wrapped if item is not None]
    addresses = inner if isinstance(outer, ipaddress.IPv6Address) and outer.ipv4_mapped else [outer, *inner]
    return all(address.is_global and not address.is_multicast for address in addresses)


class CheckedTransport(httpx.HTTPTransport):
    """Sends requests to public addresses only; `name` is the input's name in errors, `deadline` as of `time.monotonic`.

    Raises UrlRefusedError (an address that is not public) and MediaNotFoundError (a host without address).
    """

    def __init__(self, https: bool, name: str, deadline: float, allow_private: bool) -> None:
        context = ssl.create_default_context() if https else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        super().__init__(verify=context, trust_env=False)
        self._pool = httpcore.ConnectionPool(
            ssl_context=context, network_backend=_CheckedBackend(name, deadline, allow_private)
        )


class _CheckedBackend(httpcore.NetworkBackend):
    def __init__(self, name: str, deadline: float, allow_private: bool) -> None:
        self._name, self._deadline, self._allow_private = name, deadline, allow_private

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        try:
            resolved = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise MediaNotFoundError(self._name, f"{host} has no address: {one_line(error)}") from None
        for *_, address in resolved:
            if not self._allow_private and not is_public(str(address[0])):
                raise UrlRefusedError(self._name, f"leads to {address[0]}, which is not a public address")
        family, _, _, _, address = resolved[0]
        connection = socket.socket(family, socket.SOCK_STREAM)
        try:
            connection.settimeout(_seconds_until(self._deadline))
            connection.connect(address)
        except BaseException:
            connection.close()
            raise
        return _Stream(connection, self._deadline)


class _Stream(httpcore.NetworkStream):
    """A socket whose operations all end at the deadline, however slowly bytes arrive."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self._connection, self._deadline = connection, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        self._connection.settimeout(_seconds_until(self._deadline))
        return self._connection.recv(max_bytes)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._connection.settimeout(_seconds_until(self._deadline))
        self._connection.sendall(buffer)

    def close(self) -> None:
        self._connection.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        self._connection.settimeout(_seconds_until(self._deadline))
        self._connection = ssl_context.wrap_socket(self._connection, server_hostname=server_hostname)
        return self

    def get_extra_info(self, info: str) -> Any:
        return None


def _seconds_until(deadline: float) -> float:
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError("the time limit was reached")
    return seconds


_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")
_HEADERS = {
    "User-Agent": "perception-encoder",
    "Accept": "image/*, video/*, */*;q=0.5",
    "Accept-Encoding": "identity",
    "Connection": "close",
}


@dataclass(frozen=True, kw_only=True)
class FetchLimits:
    """Limits of a download, and allowed addresses."""

    max_bytes: int = 256 << 20
    seconds: float = 60.0
    """Maximum time in seconds, including redirects."""
    redirects: int = 5
    allow_private: bool = False
    """Allow private, loopback, link-local and reserved addresses."""


def is_url(text: str) -> bool:
    """Return whether a text is a single URL, of any scheme."""
    return _URL.fullmatch(text) is not None


def fetch(url: str, limits: FetchLimits | None = None, deadline: float = math.inf) -> bytes:
    """Download an image or video until a deadline (`time.monotonic`), which other downloads may share.

    Raises UrlRefusedError (scheme, address, a password in it), MediaNotFoundError (no answer, or no success) and
    MediaTooLargeError (bytes or seconds over the limit).
    """
    limits = limits or FetchLimits()
    deadline = min(deadline, time.monotonic() + limits.seconds)
    name = escape_name(url)
    try:
        target = httpx.URL(url)
        for _ in range(limits.redirects + 1):
            _check_url(target, name)
            answer = _get(target, name, limits, deadline)
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
    raise UrlRefusedError(name, f"redirects more than {limits.redirects} times")


def _check_url(url: httpx.URL, name: str) -> None:
    if url.scheme not in ("http", "https"):
        raise UrlRefusedError(name, f"{url.scheme}: is unsupported; use http: or https:")
    if not url.host:
        raise UrlRefusedError(name, "names no host")
    if url.userinfo:
        raise UrlRefusedError(re.sub("//.*@", "//…@", name), "contains a user name or a password")
    if not 0 < (url.port or 80) < 1 << 16:
        raise UrlRefusedError(name, f"is malformed: port {url.port} is not between 1 and 65535")


def _get(url: httpx.URL, name: str, limits: FetchLimits, deadline: float) -> bytes | httpx.URL:
    """Return the content, or the redirect's target."""
    request = httpx.Request("GET", url, headers=_HEADERS)
    with (
        CheckedTransport(url.scheme == "https", name, deadline, limits.allow_private) as transport,
        closing(transport.handle_request(request)) as response,
    ):
        if response.has_redirect_location:
            return url.join(response.headers["Location"])
        if response.status_code != 200:
            reason = f"the server answered {response.status_code} {response.reason_phrase}"
            raise MediaNotFoundError(name, reason.rstrip())
        return _read(response, name, limits)


def _read(response: httpx.Response, name: str, limits: FetchLimits) -> bytes:
    declared = int(response.headers.get("Content-Length", -1))
    if declared > limits.max_bytes:
        raise MediaTooLargeError(name, f"has {declared:,} bytes; the limit is {limits.max_bytes:,}")
    body = bytearray()
    try:
        for piece in response.iter_raw():
            body += piece
            if len(body) > limits.max_bytes:
                raise MediaTooLargeError(name, f"has more than {limits.max_bytes:,} bytes, the limit")
    except httpx.RemoteProtocolError:
        if len(body) >= declared:
            raise
        raise ConnectionError(f"the answer broke off after {len(body):,} of {declared:,} bytes") from None
    return bytes(body)
