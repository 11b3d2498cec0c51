"""Run lengths and outlines are what pycocotools reads."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from scipy.ndimage import binary_fill_holes

from perception_encoder.dense_prediction.detection.detections import outlines, run_lengths


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools
@settings(deadline=None, max_examples=50)
@given(st.lists(st.booleans(), min_size=12, max_size=12))
def test_pycocotools_reads_the_mask(bits: list[bool]) -> None:
    mask = np.array(bits).reshape(3, 4)
    encoded = coco_mask.frPyObjects({"size": [3, 4], "counts": run_lengths(mask)}, 3, 4)
    assert np.array_equal(coco_mask.decode(encoded), mask)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools
@settings(deadline=None, max_examples=100)
@given(st.lists(st.booleans(), min_size=30, max_size=30).filter(any))
def test_pycocotools_reads_the_outlines(bits: list[bool]) -> None:
    """Parts that touch at a corner are separate; holes are filled, but not gaps that lead out over a corner."""
    mask = np.array(bits).reshape(5, 6)
    found = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(outlines(mask), 5, 6)))
    assert np.array_equal(found, binary_fill_holes(mask, structure=np.ones((3, 3))))
