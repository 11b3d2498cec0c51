"""Read the bodies of requests within limits."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from perception_encoder.serving.requests import ApiError

if TYPE_CHECKING:
    from fastapi import Request


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
