"""Relaxed accuracy of questions about charts: numbers may be off by 5 %, other answers must be equal.

Source: Masry et al., "ChartQA", ACL 2022, section 5.1, after Methani et al., "PlotQA", WACV 2020; the conversion of
percent signs and the treatment of 0 follow the scorer that published results were computed with (pix2struct, Qwen-VL).
"""

from __future__ import annotations

import math

TOLERANCE = 0.05


def relaxed_accuracy(prediction: str, answer: str, tolerance: float = TOLERANCE) -> float:
    """Return 1 if the prediction is right, else 0.

    Two numbers: |prediction − answer| / |answer| must be at most the tolerance; "7%" is 0.07. Otherwise, and for an
    answer of 0, whose relative error is undefined, both texts must be equal in lower case, without surrounding spaces.
    "nan" and "inf" are texts.
    """
    value, expected = _number(prediction), _number(answer)
    if value is not None and expected:
        return float(abs(value - expected) / abs(expected) <= tolerance)
    return float(prediction.strip().lower() == answer.strip().lower())


def _number(text: str) -> float | None:
    text = text.strip()
    try:
        value = float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
