"""Dates in conditions: real ones pass, others are refused wherever they stand."""

from __future__ import annotations

import pytest

from perception_encoder.errors import ConfigError
from perception_encoder.search.storage.rows import check_dates


@pytest.mark.parametrize(
    "condition",
    [
        "date >= '2024'",
        "kind = 'video' AND date>='2024-07' and length < 60",
        "date BETWEEN '2024-02-29' AND '2024-07-31T18:05:00'",
        "date <= '2024-07~'",  # the page's
        "'2024-07-31T18' < date OR date IN ('2024', '2023-01')",
        "path = 'not a date' AND date LIKE '2024-%' AND date IS NOT NULL",
        "path = 'the date = ''x'' y'",
    ],
)
def test_dates(condition: str) -> None:
    check_dates(condition)


@pytest.mark.parametrize(
    ("condition", "literal"),
    [
        ("date >= '2024-13'", "'2024-13'"),
        ("date >= '2023-02-29'", "'2023-02-29'"),
        ("kind = 'image' AND DATE < 'yesterday'", "'yesterday'"),
        ("date > '31.12.2024'", "'31.12.2024'"),
        ("date > '2024-07-31 18:05'", "'2024-07-31 18:05'"),
        ("date NOT BETWEEN '2024' AND '2024-1'", "'2024-1'"),
        ("'24' <= date", "'24'"),
        ("date NOT IN ('2024', 'last year')", "'last year'"),
        ("date = '' ", "''"),
    ],
)
def test_other_texts_are_refused(condition: str, literal: str) -> None:
    with pytest.raises(ConfigError, match="is not a date; dates look like '2024'") as error:
        check_dates(condition)
    assert str(error.value).startswith(literal)
