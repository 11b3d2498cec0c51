"""Exact search against a plain computation."""

from __future__ import annotations

import numpy as np
import pytest

from perception_encoder.errors import ShapeError
from perception_encoder.search.index import exact
from perception_encoder.search.index.exact import best_rows


def vectors(count: int, seed: int = 0, dim: int = 8) -> np.ndarray:
    drawn = np.random.default_rng(seed).standard_normal((count, dim), dtype=np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def test_best_first_and_every_score_right() -> None:
    queries, gallery = vectors(3), vectors(50, seed=1)
    scores, rows = best_rows(queries, gallery, top=10)
    for query, own_scores, own_rows in zip(queries, scores, rows, strict=True):
        expected = sorted(range(50), key=lambda row: -float(query @ gallery[row]))[:10]
        assert own_rows.tolist() == expected
        np.testing.assert_allclose(own_scores, gallery[own_rows] @ query, rtol=1e-6)
        assert (np.diff(own_scores) <= 0).all()


def test_equal_scores_keep_the_gallery_s_order() -> None:
    gallery = np.repeat(vectors(2), [3, 4], axis=0)
    assert best_rows(gallery[:1], gallery, top=3)[1].tolist() == [[0, 1, 2]]
    assert best_rows(gallery[:1], gallery, top=2)[1].tolist() == [[0, 1]]


@pytest.mark.parametrize("top", [1, 3, 5])
def test_vectors_that_are_none_come_last(top: int) -> None:
    gallery = vectors(5)
    gallery[[0, 3]] = np.nan
    rows = best_rows(vectors(1, seed=1), gallery, top)[1][0].tolist()
    assert len(rows) == top and set(rows[:3]) <= {1, 2, 4} and set(rows[3:]) <= {0, 3}


def test_top_may_be_more_than_there_is() -> None:
    scores, rows = best_rows(vectors(2), vectors(3, seed=1), top=10)
    assert scores.shape == rows.shape == (2, 3)
    assert best_rows(vectors(2), vectors(0), top=10)[1].shape == (2, 0)


def test_many_queries_in_blocks_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, gallery = vectors(7), vectors(20, seed=1)
    whole = best_rows(queries, gallery, top=5)
    monkeypatch.setattr(exact, "_BLOCK_VALUES", 60)
    scores, rows = best_rows(queries, gallery, top=5)
    assert rows.tolist() == whole[1].tolist()
    np.testing.assert_allclose(scores, whole[0], rtol=1e-6)


def test_vectors_of_two_models_do_not_mix() -> None:
    with pytest.raises(ShapeError, match="8 dimensions, the gallery has 16"):
        best_rows(vectors(1), vectors(3, dim=16), top=1)
