"""HTTP connections to checked addresses only, which end at a deadline.

A host is looked up once, its addresses are checked, and the connection goes to the checked address, so a name that
resolves to another address a moment later (DNS rebinding) gains nothing.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import time
from collections.abc import Iterable
from typing import Any

import httpcore
import httpx

from perception_encoder.errors import MediaNotFoundError, UrlRefusedError, one_line

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


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


class CheckedTransport(httpx.HTTPTransport):
    """Sends requests to public addresses; `name` is the input's name in errors, `deadline` by `time.monotonic`.

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
    """A socket whose every operation ends at the deadline, however many bytes trickle in."""

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
        raise TimeoutError("the time is up")
    return seconds
