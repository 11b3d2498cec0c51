"""Connections to public addresses, for `fetch`.

A connection goes to the very address that was checked, so a name that resolves to another one a moment later (DNS
rebinding) gains nothing. Redirects are checked too. Proxies of the environment are not used.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import ssl
import time
from collections.abc import Iterable
from contextlib import closing
from typing import Any

import httpcore
import httpx

from perception_encoder.errors import MediaNotFoundError, MediaTooLargeError, UrlRefusedError, one_line

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_UNICAST = ipaddress.IPv6Network("2000::/3")  # all that IANA has assigned to the public internet
_ISATAP = 0x5EFE


def is_public(address: str) -> bool:
    """Return whether an IP address, and any IPv4 address that it wraps, is public."""
    outer = ipaddress.ip_address(address.partition("%")[0])
    addresses: list[ipaddress.IPv4Address | ipaddress.IPv6Address | None] = [outer]
    if isinstance(outer, ipaddress.IPv6Address):
        last = ipaddress.IPv4Address(int(outer) & 0xFFFFFFFF)
        if outer.ipv4_mapped or outer in _NAT64:
            addresses = [last]
        elif outer not in _UNICAST:
            return False
        else:
            is_isatap = int(outer) >> 32 & 0xFDFFFFFF == _ISATAP  # with any bit "u"
            addresses += [outer.sixtofour, *(outer.teredo or ()), last if is_isatap else None]
    return all(address.is_global and not address.is_multicast for address in addresses if address is not None)


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


def _seconds_until(deadline: float) -> float:
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError("the time limit was reached")
    return seconds


_HEADERS = {
    "User-Agent": "perception-encoder",
    "Accept": "image/*, video/*, */*;q=0.5",
    "Accept-Encoding": "identity",
    "Connection": "close",
}


def check_url(url: httpx.URL, name: str) -> None:
    """Raise UrlRefusedError unless a URL is of http or https, with a host and without a password."""
    if url.scheme not in ("http", "https"):
        raise UrlRefusedError(name, f"{url.scheme}: is unsupported; use http: or https:")
    if not url.host:
        raise UrlRefusedError(name, "names no host")
    if url.userinfo:
        raise UrlRefusedError(re.sub("^([^/]*//).*@", r"\1…@", name), "contains a user name or a password")
    if not 0 < (url.port or 80) < 1 << 16:
        raise UrlRefusedError(name, f"is malformed: port {url.port} is not between 1 and 65535")


def get(url: httpx.URL, name: str, max_bytes: int, allow_private: bool, deadline: float) -> bytes | httpx.URL:
    """Return the content, or the redirect's target; raises what `fetch` raises and errors of httpx."""
    request = httpx.Request("GET", url, headers=_HEADERS)
    with (
        CheckedTransport(url.scheme == "https", name, deadline, allow_private) as transport,
        closing(transport.handle_request(request)) as response,
    ):
        if response.has_redirect_location:
            return url.join(response.headers["Location"])
        if response.status_code != 200:
            reason = f"the server answered {response.status_code} {response.reason_phrase}"
            raise MediaNotFoundError(name, reason.rstrip())
        return _read(response, name, max_bytes)


def _read(response: httpx.Response, name: str, max_bytes: int) -> bytes:
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
