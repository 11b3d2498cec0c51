"""The learning-rate schedule."""

from __future__ import annotations

import math

from perception_encoder.train.schedule import warmup_cosine


def test_warm_up_then_cosine() -> None:
    shares = [warmup_cosine(step, 100, 10) for step in range(100)]
    assert shares[0] == 0.1
    assert shares[9] == shares[10] == 1.0
    assert math.isclose(shares[55], 0.5)
    assert 0 < shares[99] < 0.001
    assert shares[10:] == sorted(shares[10:], reverse=True)
