"""Vectors are brought to length 1, those of zeros excepted; the best rows are those of a whole sort."""

from __future__ import annotations

import numpy as np
import pytest

from perception_encoder.errors import ShapeError
from perception_encoder.vectors import best_rows, unit_rows


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4)])
def test_each_row_has_length_1_and_its_direction(shape: tuple[int, ...]) -> None:
    vectors = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    unit = unit_rows(vectors)
    assert unit.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(unit, axis=-1), 1, rtol=1e-6)
    np.testing.assert_allclose(unit * np.linalg.norm(vectors, axis=-1, keepdims=True), vectors, rtol=1e-5)


def test_zeros_stay_zeros() -> None:
    assert unit_rows(np.zeros((1, 3))).tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("seed", range(6))
def test_the_best_rows_are_those_of_a_whole_sort(seed: int) -> None:
    """For every number of rows that is asked for; equal scores in the gallery's order, NaN last."""
    generator = np.random.default_rng(seed)
    query, gallery = np.ones(2, np.float32), generator.integers(-2, 3, (7, 2)).astype(np.float32)
    gallery[generator.random(7) < 0.2] = np.nan
    scores = gallery @ query
    order = sorted(range(7), key=lambda row: (bool(np.isnan(scores[row])), -scores[row]))
    for top in range(1, 10):
        found, rows = best_rows(query, gallery, top)
        assert rows.tolist() == order[:top]
        np.testing.assert_array_equal(found, scores[order[:top]])


def test_a_query_of_another_dimension_is_an_error() -> None:
    with pytest.raises(ShapeError, match="the query has 3 dimensions, the gallery has 2"):
        best_rows(np.ones(3), np.ones((4, 2)), 1)
