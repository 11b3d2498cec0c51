"""Bodies of requests as typed objects, by pydantic, and the error of a request that cannot be answered."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")

_MOST_VALUES, _MOST_LISTS = 500_000, 20_000  # of a body: they determine how long parsing it blocks everything else


_TYPES = {429: "requests", 500: "server_error"}
_CODES = {401: "invalid_api_key", 404: "unknown_url", 405: "method_not_supported", 429: "rate_limit_exceeded"}


class ApiError(Exception):
    """A request that cannot be answered, with OpenAI's fields."""

    def __init__(self, status: int, message: str, parameter: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.parameter, self.code = status, message, parameter, code or _CODES.get(status)

    def body(self) -> dict[str, Any]:
        """Return the answer's JSON."""
        kind = _TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.parameter, "code": self.code}}


class FirstError:
    """Stop validating a list at its first error (pydantic's `FailFast`): a body may have half a million of them."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        return {**handler(source), "fail_fast": True}


@cache
def _adapter(kind: type) -> TypeAdapter[Any]:  # pydantic comes with an extra, so it is imported late
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def parse_body(body: bytes, kind: type[T], allowed: Mapping[str, str]) -> T:
    """Parse and validate a body; ApiError if it is invalid, or so long that parsing would block all other requests.

    `allowed`: what the whole ("") and each field must be, for the error's message.
    """
    from pydantic import ValidationError

    if body.count(b",") + body.count(b"\\") > _MOST_VALUES or body.count(b"[") + body.count(b"{") > _MOST_LISTS:
        limits = f"{_MOST_VALUES:,} values and {_MOST_LISTS:,} lists and objects"
        raise ApiError(400, f"the body has more than the limit: {limits}")
    try:
        request: T = _adapter(kind).validate_json(body)  # type: ignore[arg-type]  # a type is hashable
        return request
    except ValidationError as invalid:
        error = invalid.errors(include_url=False)[0]
    if error["type"] == "json_invalid":
        reason = error["ctx"]["error"]
        hint = "; half of a surrogate pair is not Unicode" if "hex escape" in reason else ""
        raise ApiError(400, f"the body is not JSON: {reason}{hint}")
    name = str(error["loc"][0]) if error["loc"] else ""
    value = "" if name in ("", "input", "messages") else f"{name} is {shortened(error['input'])}; "
    raise ApiError(400, value + allowed[name], name or None)


def shortened(value: Any) -> str:
    """A value for an error's message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
