"""Images and videos by URL: http and https, within limits, and only from public addresses unless allowed.

Each redirect is checked like the first address. Proxies of the environment are not used.
"""

from __future__ import annotations

import math
import re
import time
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from perception_encoder.errors import InputError, MediaNotFoundError, MediaTooLargeError, UrlRefusedError, one_line
from perception_encoder.preprocess.source import escape_name

if TYPE_CHECKING:
    import httpx

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")
_HEADERS = {
    "User-Agent": "perception-encoder",
    "Accept": "image/*, video/*, */*;q=0.5",
    "Accept-Encoding": "identity",
    "Connection": "close",
}


@dataclass(frozen=True, kw_only=True)
class FetchLimits:
    """What a download may cost, and where it may go."""

    max_bytes: int = 256 << 20
    seconds: float = 60.0
    """For everything, redirects included."""
    redirects: int = 5
    allow_private: bool = False
    """Allow private, loopback, link-local and reserved addresses."""


def is_url(text: str) -> bool:
    """Whether a text is a URL of any scheme, and nothing besides."""
    return _URL.fullmatch(text) is not None


def fetch(url: str, limits: FetchLimits | None = None, deadline: float = math.inf) -> bytes:
    """Download one image or video, until a deadline of `time.monotonic` that it may share with others.

    Raises UrlRefusedError (scheme, address, a password in it), MediaNotFoundError (no answer, or no success) and
    MediaTooLargeError (bytes or seconds over the limit).
    """
    import httpx

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
        raise UrlRefusedError(name, f"{url.scheme}: is not fetched, only http: and https: are")
    if not url.host:
        raise UrlRefusedError(name, "names no host")
    if url.userinfo:
        raise UrlRefusedError(re.sub("//.*@", "//…@", name), "holds a user name or a password")
    if not 0 < (url.port or 80) < 1 << 16:
        raise UrlRefusedError(name, f"is malformed: port {url.port} is not between 1 and 65535")


def _get(url: httpx.URL, name: str, limits: FetchLimits, deadline: float) -> bytes | httpx.URL:
    """The content, or where the server redirects to."""
    import httpx

    from perception_encoder.inference.checked_transport import CheckedTransport

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
    import httpx

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
