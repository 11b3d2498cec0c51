"""Fetch images and videos by URL over http and https, within limits, by default only from public addresses."""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass

from perception_encoder.errors import InputError, MediaNotFoundError, MediaTooLargeError, UrlRefusedError, one_line
from perception_encoder.preprocess.source import escape_name

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")


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
    import httpx  # here, with the module that needs it, since most runs fetch nothing

    from perception_encoder.preprocess.connection import check_url, get

    limits = limits or FetchLimits()
    deadline = min(deadline, time.monotonic() + limits.seconds)
    name = escape_name(url)
    try:
        target = httpx.URL(url)
        for _ in range(limits.redirects + 1):
            check_url(target, name)
            answer = get(target, name, limits.max_bytes, limits.allow_private, deadline)
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
