"""ANLS on stripped texts and their lengths."""

from __future__ import annotations

import pytest

from perception_encoder.errors import DataError, MissingExtraError
from perception_encoder.evaluation.language.answers import anls


@pytest.mark.parametrize(
    ("prediction", "answers", "expected"),
    [
        ("Invoice", ["invoice"], 1),
        ("invoices", ["invoice"], 7 / 8),
        ("  invoices\n", ["invoice "], 7 / 8),
        ("a  b", ["a b"], 1),
        ("abcd", ["abxy"], 0.5),
        ("abc", ["axy"], 0),
        ("abc", ["xyz", "abd"], 2 / 3),
        ("", ["x"], 0),
        ("", [" "], 1),
        ("straße", ["strase"], 5 / 6),
    ],
)
def test_similarity(prediction: str, answers: list[str], expected: float) -> None:
    assert anls(prediction, answers) == pytest.approx(expected)


def test_the_threshold() -> None:
    assert anls("abc", ["axy"], threshold=0.3) == pytest.approx(1 / 3)


def test_no_answers() -> None:
    with pytest.raises(DataError, match="at least one answer"):
        anls("x", [])


def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "rapidfuzz.distance", None)
    with pytest.raises(MissingExtraError, match=r"rapidfuzz is not installed.*\[lang\]"):
        anls("x", ["x"])
