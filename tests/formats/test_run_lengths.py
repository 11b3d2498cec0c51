"""Run lengths are what pycocotools reads."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from perception_encoder.dense_prediction.detection.detections import run_lengths


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools
@settings(deadline=None, max_examples=50)
@given(st.lists(st.booleans(), min_size=12, max_size=12))
def test_pycocotools_reads_the_mask(bits: list[bool]) -> None:
    mask = np.array(bits).reshape(3, 4)
    encoded = coco_mask.frPyObjects({"size": [3, 4], "counts": run_lengths(mask)}, 3, 4)
    assert np.array_equal(coco_mask.decode(encoded), mask)
