"""Read the images and videos of requests: data URIs, and addresses, which are fetched within limits."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from perception_encoder.errors import InputError, MediaTooLargeError, detached
from perception_encoder.inference.fetch import FetchLimits, fetch, is_url
from perception_encoder.inference.media import Kind, Media, resolve
from perception_encoder.preprocess.source import escape_name
from perception_encoder.serving.parsing import ApiError

T = TypeVar("T")

_FETCHERS, _DECODERS = 16, 2  # threads: downloads take seconds, decoding takes a core


class MediaReader:
    """Downloads and decodes images and videos in threads; all its methods belong to one event loop."""

    def __init__(self, limits: FetchLimits) -> None:
        self.limits = limits
        self._fetchers = ThreadPoolExecutor(_FETCHERS, "fetch")
        self._fetching = asyncio.Semaphore(_FETCHERS)
        self._decoders = ThreadPoolExecutor(_DECODERS, "decode")

    async def read(self, kind: Kind, value: str, deadline: float, decode: Callable[[Media], T]) -> T:
        """Return what `decode` makes of the image or video at an address or in a data URI; raises InputError.

        An address is fetched until `deadline`, of `time.monotonic`.
        """
        if not is_address(kind, value):
            return await self._decode(lambda: read_data_uri(kind, value), decode)
        async with self._fetching:  # until it is decoded: so many downloads are in memory at most
            loop = asyncio.get_running_loop()
            content = await loop.run_in_executor(self._fetchers, fetch, value, self.limits, deadline)
            # bytes: never a path, whatever the address looks like
            return await self._decode(lambda: resolve(content, escape_name(value), kind=kind), decode)

    async def _decode(self, resolved: Callable[[], Media], decode: Callable[[Media], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._decoders, lambda: decode(resolved()))


async def gather_results(works: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Return the results of all, in order; the first error cancels the others, and keeps none of their results."""
    tasks: list[asyncio.Task[T]] = []
    failed: list[Exception] = []
    try:
        async with asyncio.TaskGroup() as group:
            tasks += [group.create_task(work) for work in works]
        return [task.result() for task in tasks]
    except ExceptionGroup as errors:
        failed.append(detached(errors.exceptions[0]))
    tasks.clear()  # an error holds this frame
    raise failed.pop()


def is_address(kind: Kind, value: str) -> bool:
    """Whether an input has to be fetched; InputError if an image or video is neither an address nor a data URI."""
    if kind == "text" or value.startswith("data:"):
        return False
    if not is_url(value) or not value.startswith(("http://", "https://")):
        raise InputError(value[:60], "is neither an http(s) address nor a data URI")
    return True


def read_data_uri(kind: Kind, value: str) -> Media:
    """Return the image or video in a data URI; raises InputError."""
    head, comma, data = value.partition(",")
    name = f"{head[:60]},…"
    if not comma or not head.endswith(";base64"):
        raise InputError(name, "is not a base64 data URI")
    try:
        return resolve(base64.b64decode(data, validate=True), name, kind=kind)
    except binascii.Error:
        raise InputError(name, "is not valid base64") from None


def input_refused(error: InputError, parameter: str) -> ApiError:
    """The answer to a request with a bad image or video."""
    return ApiError(413 if isinstance(error, MediaTooLargeError) else 400, str(error), parameter)


def too_slow(limits: FetchLimits, parameter: str) -> ApiError:
    """The answer to a request whose addresses took too long."""
    return ApiError(413, f"the addresses took more than {limits.seconds:g} s in all, the limit", parameter)
