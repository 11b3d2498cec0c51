"""HTTP requests and answers: errors, size limits and streamed answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import fields
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from perception_encoder.errors import InputError, PerceptionEncoderError, detached

if TYPE_CHECKING:
    from fastapi import Request, Response
    from pydantic import TypeAdapter

T = TypeVar("T")

_MAX_VALUES, _MAX_LISTS = 500_000, 20_000  # of a body: they bound how long parsing it blocks everything else
BODIES_BYTES = 256 << 20
"""Maximum size of all bodies in use together."""
_TYPES = {429: "requests", 500: "server_error"}
REQUEST = {"strict": True, "extra": "allow"}
"""pydantic's configuration of a request's dataclass: `parse_body` finds the fields that the class lacks."""
_NO_EFFECT = ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key")
_CODES = {401: "invalid_api_key", 404: "unknown_url", 405: "method_not_supported", 429: "rate_limit_exceeded"}


class ApiError(Exception):
    """An error sent to the client, with OpenAI's fields."""

    def __init__(self, status: int, message: str, parameter: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.parameter, self.code = status, message, parameter, code or _CODES.get(status)

    def body(self) -> dict[str, Any]:
        """Return the answer's JSON."""
        kind = _TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.parameter, "code": self.code}}


def as_api_error(error: ApiError | PerceptionEncoderError) -> ApiError:
    """Return the error of a page's route: by default 404 for an unusable file, else 400."""
    if isinstance(error, ApiError):
        return error
    return ApiError(getattr(error, "status", 404 if isinstance(error, InputError) else 400), str(detached(error)))


class FirstError:
    """Stops validating a list at its first error (pydantic's `FailFast`): a body may have half a million errors."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        return {**handler(source), "fail_fast": True}


@cache
def _adapter(kind: type) -> TypeAdapter[Any]:  # pydantic comes with an extra, so it is imported late
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def parse_body(
    body: bytes | bytearray,
    kind: type[T],
    expected: Mapping[str, str] = MappingProxyType({}),
    harmless: Mapping[str, tuple[Any, ...]] = MappingProxyType({}),
) -> T:
    """Parse and validate a body; ApiError if it is invalid or so long that parsing would block other requests.

    `expected`: what fields of several forms must be, for the error's message. `harmless`: values of other fields that
    do not change the answer; any other field is an error.
    """
    from pydantic import ValidationError

    if body.count(b",") + body.count(b"\\") > _MAX_VALUES or body.count(b"[") + body.count(b"{") > _MAX_LISTS:
        limits = f"{_MAX_VALUES:,} values and {_MAX_LISTS:,} lists and objects"
        raise ApiError(400, f"the body has more than the limit: {limits}")
    try:
        request: T = _adapter(kind).validate_json(body)  # type: ignore[arg-type]  # a type is hashable
        _check_fields(request, harmless)
        return request
    except ValidationError as invalid:
        error = invalid.errors(include_url=False)[0]
    if error["type"] == "json_invalid":
        reason = error["ctx"]["error"]
        hint = "; half of a surrogate pair is not Unicode" if "hex escape" in reason else ""
        raise ApiError(400, f"the body is not JSON: {reason}{hint}")
    if not error["loc"]:
        raise ApiError(400, "the body must be a JSON object")
    name, *below = error["loc"]
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in below)
    if message := expected.get(str(name)):  # whose value may be large
        raise ApiError(400, message, str(name))
    value = "" if error["type"] == "missing" else f" is {shortened(error['input'])}"
    raise ApiError(400, f"{name}{place}{value}: {error['msg']}", str(name))


def _check_fields(request: Any, harmless: Mapping[str, tuple[Any, ...]]) -> None:
    known = [field.name for field in fields(request)]
    for name, value in vars(request).items():
        if name in known or name in _NO_EFFECT or value is None or value in harmless.get(name, ()):
            continue
        refused = unsupported(name, value)
        raise ApiError(400, f"{refused.message}; it takes {', '.join(known)}", refused.parameter)


def unsupported(name: str, value: Any) -> ApiError:
    """Return the error for a field with a value that the server does not support."""
    return ApiError(400, f"{name[:60]} is {shortened(value)}; this server does not support it", name[:60])


def shortened(value: Any) -> str:
    """Shorten a value for an error message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


class BodyReader:
    """Reads bodies of at most `maximum` bytes within `seconds`; bodies in use together have at most `total` bytes."""

    def __init__(self, maximum: int, seconds: float, total: int = BODIES_BYTES) -> None:
        self._maximum, self._seconds, self._total, self._bytes = maximum, seconds, total, 0

    @asynccontextmanager
    async def read(self, request: Request, parse: Callable[[bytearray], T]) -> AsyncIterator[T]:
        """Yield a body parsed in a thread, as a large one takes long; its bytes count until the block ends.

        Raises ApiError, and what parsing raises.
        """
        from starlette.requests import ClientDisconnect

        body, size = bytearray(), 0
        try:
            try:
                async with asyncio.timeout(self._seconds):
                    async for piece in request.stream():
                        if size + len(piece) > self._maximum:
                            raise ApiError(413, f"the body has more than {self._maximum:,} bytes, the limit")
                        if self._bytes + len(piece) > self._total:
                            raise ApiError(429, "the server is reading too many bodies; try again later")
                        body += piece
                        size += len(piece)
                        self._bytes += len(piece)
            except TimeoutError:
                raise ApiError(408, f"the body took more than {self._seconds:g} s, the limit") from None
            except ClientDisconnect:
                raise ApiError(400, "the client disconnected") from None  # nobody reads this
            parsed = await asyncio.to_thread(parse, body)
            body.clear()
            yield parsed
        finally:
            self._bytes -= size


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """Return the result of `work`, cancelled with an ApiError if the client, whose body was read, disconnects."""

    async def wait_for_disconnect() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task, disconnected = asyncio.ensure_future(work), asyncio.ensure_future(wait_for_disconnect())
    try:
        await asyncio.wait({task, disconnected}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ApiError(400, "the client disconnected")  # nobody reads this
    finally:
        task.cancel()
        disconnected.cancel()
        await asyncio.gather(task, disconnected, return_exceptions=True)


def stream_response(content: AsyncIterator[bytes], source: AsyncGenerator[Any, None], media_type: str) -> Response:
    """Send `content` piece by piece; its `source` is closed at the end or when the client disconnects."""
    from fastapi.responses import StreamingResponse

    class ClosingResponse(StreamingResponse):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            async with aclosing(source):
                await super().__call__(scope, receive, send)

    # X-Accel-Buffering: nginx forwards each piece at once
    return ClosingResponse(
        content, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"}, media_type=media_type
    )
