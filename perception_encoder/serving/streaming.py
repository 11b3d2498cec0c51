"""Answers that are sent while they are made, and work that ends if its client disconnects."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, closing, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from perception_encoder.errors import PerceptionEncoderError, detached
from perception_encoder.serving.parsing import ApiError

if TYPE_CHECKING:
    from fastapi import Request, Response

T = TypeVar("T")


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of `work`, which is cancelled if the client disconnects; its body must have been read.

    Raises ApiError for a client that has gone.
    """

    async def wait_for_disconnect() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task, disconnected = asyncio.create_task(work), asyncio.create_task(wait_for_disconnect())
    try:
        await asyncio.wait({task, disconnected}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ApiError(400, "the client has gone")  # nobody reads this
    finally:
        task.cancel()
        disconnected.cancel()
        await asyncio.gather(task, disconnected, return_exceptions=True)


async def pieces_from(
    thread: ThreadPoolExecutor, work: Callable[[], Generator[T, None, None]], waiting: tuple[T, float] | None = None
) -> AsyncGenerator[T, None]:
    """Yield what `work()` yields in a thread; closing this, or cancelling its task, ends the work after its next piece.

    `waiting`: a piece to yield every so many seconds until the work begins. Raises what the work raises.
    """
    loop, begun, gone = asyncio.get_running_loop(), threading.Event(), threading.Event()
    pieces: asyncio.Queue[tuple[T] | Exception | None] = asyncio.Queue()

    def send(piece: tuple[T] | Exception | None) -> None:
        with suppress(RuntimeError):  # the server has stopped
            loop.call_soon_threadsafe(pieces.put_nowait, piece)

    def run() -> None:
        begun.set()
        try:
            with closing(work()) as source:
                for piece in source:
                    send((piece,))
                    if gone.is_set():
                        return
        except Exception as error:
            send(detached(error) if isinstance(error, (PerceptionEncoderError, ApiError)) else error)
        else:
            send(None)

    submitted = thread.submit(run)
    try:
        while True:
            try:
                piece = await asyncio.wait_for(pieces.get(), waiting[1] if waiting and not begun.is_set() else None)
            except TimeoutError:
                if waiting and not begun.is_set():
                    yield waiting[0]
                continue
            if piece is None:
                return
            if isinstance(piece, Exception):
                raise piece
            yield piece[0]
    finally:
        piece = None  # an error holds this frame
        gone.set()
        submitted.cancel()


async def first_piece(pieces: AsyncGenerator[T, None]) -> T:
    """Return the first of some pieces, so that an error before it has a status of its own."""
    return await anext(pieces)


def stream_response(content: AsyncIterator[bytes], source: AsyncGenerator[Any, None], media_type: str) -> Response:
    """Send `content` piece by piece; `source`, from which it is made, is closed when it ends or the client has gone."""
    from fastapi.responses import StreamingResponse

    class ClosingResponse(StreamingResponse):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            async with aclosing(source):
                await super().__call__(scope, receive, send)

    # X-Accel-Buffering: nginx sends on each piece at once
    return ClosingResponse(
        content, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"}, media_type=media_type
    )
