"""Vectors are brought to length 1, those of zeros excepted."""

from __future__ import annotations

import numpy as np
import pytest

from perception_encoder.vectors import unit_rows


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4)])
def test_each_row_has_length_1_and_its_direction(shape: tuple[int, ...]) -> None:
    vectors = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    unit = unit_rows(vectors)
    assert unit.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(unit, axis=-1), 1, rtol=1e-6)
    np.testing.assert_allclose(unit * np.linalg.norm(vectors, axis=-1, keepdims=True), vectors, rtol=1e-5)


def test_zeros_stay_zeros() -> None:
    assert unit_rows(np.zeros((1, 3))).tolist() == [[0, 0, 0]]
