"""Exact search against a plain computation."""

from __future__ import annotations

import numpy as np
import pytest

from perception_encoder.errors import ShapeError
from perception_encoder.vectors import best_rows


def vectors(count: int, seed: int = 0, dim: int = 8) -> np.ndarray:
    drawn = np.random.default_rng(seed).standard_normal((count, dim), dtype=np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def test_best_first_and_every_score_right() -> None:
    gallery = vectors(50, seed=1)
    for query in vectors(3):
        scores, rows = best_rows(query, gallery, top=10)
        assert rows.tolist() == sorted(range(50), key=lambda row: -float(query @ gallery[row]))[:10]
        np.testing.assert_allclose(scores, gallery[rows] @ query, rtol=1e-6)
        assert (np.diff(scores) <= 0).all()


def test_equal_scores_keep_the_gallery_s_order() -> None:
    gallery = np.repeat(vectors(2), [3, 4], axis=0)
    assert best_rows(gallery[0], gallery, top=3)[1].tolist() == [0, 1, 2]
    assert best_rows(gallery[0], gallery, top=2)[1].tolist() == [0, 1]


@pytest.mark.parametrize("top", [1, 3, 5])
def test_vectors_of_nan_come_last(top: int) -> None:
    gallery = vectors(5)
    gallery[[0, 3]] = np.nan
    rows = best_rows(vectors(1, seed=1)[0], gallery, top)[1].tolist()
    assert len(rows) == top and set(rows[:3]) <= {1, 2, 4} and set(rows[3:]) <= {0, 3}


def test_top_may_be_more_than_there_is() -> None:
    (query,) = vectors(1)
    scores, rows = best_rows(query, vectors(3, seed=1), top=10)
    assert scores.shape == rows.shape == (3,)
    assert best_rows(query, vectors(0), top=10)[1].shape == (0,)


def test_vectors_of_two_models_do_not_mix() -> None:
    with pytest.raises(ShapeError, match="8 dimensions, the gallery has 16"):
        best_rows(vectors(1)[0], vectors(3, dim=16), top=1)
