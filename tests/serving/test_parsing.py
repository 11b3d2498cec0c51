"""Bodies become typed objects; what is wrong with one is said under its field's name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest

from perception_encoder.serving.parsing import ApiError, parse_body, shortened


@dataclass(kw_only=True)
class _Vote:
    __pydantic_config__: ClassVar = {"strict": True}
    name: str
    stars: int | None = None


ALLOWED = {"": "the body must be a JSON object", "name": "it must be a text", "stars": "it must be an integer"}


def test_a_body_is_read_strictly() -> None:
    assert parse_body(b'{"name": "anna", "stars": 4}', _Vote, ALLOWED) == _Vote(name="anna", stars=4)
    assert parse_body(b'{"name": "anna"}', _Vote, ALLOWED).stars is None


@pytest.mark.parametrize(
    ("body", "message", "parameter"),
    [
        (b"[]", "the body must be a JSON object", None),
        (b"{", "the body is not JSON", None),
        (b'{"name": 3}', "name is 3; it must be a text", "name"),
        (b'{"name": "a", "stars": "4"}', "stars is '4'; it must be an integer", "stars"),
        (b'{"name": "\\ud800"}', "half of a surrogate pair", None),
        (b"[" * 20_001, "more than the limit", None),
    ],
)
def test_errors_name_the_field(body: bytes, message: str, parameter: str | None) -> None:
    with pytest.raises(ApiError, match=message.replace("[", r"\[")) as error:
        parse_body(body, _Vote, ALLOWED)
    assert error.value.status == 400 and error.value.body()["error"]["param"] == parameter


def test_long_values_are_shortened() -> None:
    assert shortened("x" * 100) == "'" + "x" * 58 + "…" and shortened(3) == "3"
