"""Read the bodies of requests within limits."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

from perception_encoder.serving.parsing import ApiError

if TYPE_CHECKING:
    from fastapi import Request


T = TypeVar("T")

_AT_ONCE = 1 << 16  # bytes of a body that are parsed in the event loop; a larger one in a thread


async def parse_content(content: bytes, parse: Callable[[bytes], T]) -> T:
    """Parse a body, a large one in a thread, so that other requests do not wait for it."""
    return await asyncio.to_thread(parse, content) if len(content) >= _AT_ONCE else parse(content)


class BodyReader:
    """Reads bodies of at most `most` bytes within `seconds`; bodies in use have at most `together` bytes."""

    def __init__(self, most: int, seconds: float, together: int = sys.maxsize) -> None:
        self._most, self._seconds, self._together, self._bytes = most, seconds, together, 0

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytearray]:
        """Yield a body, which the caller may clear; its bytes count until the block ends. Raises ApiError."""
        from starlette.requests import ClientDisconnect

        body, size = bytearray(), 0
        try:
            try:
                async with asyncio.timeout(self._seconds):
                    async for piece in request.stream():
                        if size + len(piece) > self._most:
                            raise ApiError(413, f"the body has more than {self._most:,} bytes, the limit")
                        if self._bytes + len(piece) > self._together:
                            raise ApiError(429, "too much is being read; try again later")
                        body += piece
                        size += len(piece)
                        self._bytes += len(piece)
            except TimeoutError:
                raise ApiError(408, f"the body took more than {self._seconds:g} s, the limit") from None
            except ClientDisconnect:
                raise ApiError(400, "the client has gone") from None  # nobody reads this
            yield body
        finally:
            self._bytes -= size
