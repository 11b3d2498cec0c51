"""What the page may ask for."""

from __future__ import annotations

import pytest

from perception_encoder.errors import ConfigError
from perception_encoder.search.query.asked import parse_asked


@pytest.mark.parametrize(
    ("asked", "terms"),
    [
        ("text:a cat", [(1, "text", "a cat")]),
        ("-0.5:text:2:a cat - snow", [(-1, "text", "a cat"), (0.5, "text", "snow")]),
        ("text:like:this", [(1, "text", "like:this")]),
        ("like:ab12\n-1.25:image:f00", [(1, "like", "ab12"), (-1.25, "image", "f00")]),
        ("0:like:ab12\ntext:a cat", [(0, "like", "ab12"), (1, "text", "a cat")]),
    ],
)
def test_a_line_a_term(asked: str, terms: list[tuple[float, str, str]]) -> None:
    assert [(term.weight, term.kind, term.what) for term in parse_asked(asked)] == terms


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("", "is no query"),
        ("/etc/passwd", "is no query"),
        ("text:a cat\n1e9:text:a dog", "'1e9:text:a dog' is no query"),
        ("nan:like:ab12", "is no query"),
        ("text:a cat\ntext: ", "the query is empty"),
        ("\n".join(["like:ab12"] * 33), "33 terms"),
        ("text:" + " + ".join(["a cat"] * 33), "33 terms"),
    ],
)
def test_anything_else_is_refused(asked: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_asked(asked)
