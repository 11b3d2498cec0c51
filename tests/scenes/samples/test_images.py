"""Masks of images as COCO writes them, and images with hidden objects."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception_encoder.scenes.layout.scene import PlacedObject
from perception_encoder.scenes.objects.models import ObjectLibrary
from perception_encoder.scenes.samples.images import ImageMaker, run_lengths
from perception_encoder.scenes.samples.sample import ScenesConfig
from tests.scenes.conftest import STACK, scene_of


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools
@settings(deadline=None, max_examples=50)
@given(st.lists(st.booleans(), min_size=12, max_size=12))
def test_run_lengths_are_cocos(bits: list[bool]) -> None:
    from pycocotools import mask as coco

    mask = np.array(bits).reshape(3, 4)
    encoded = coco.frPyObjects({"size": [3, 4], "counts": run_lengths(mask)}, 3, 4)
    assert np.array_equal(coco.decode(encoded), mask)


def test_an_image_with_a_hidden_object_is_refused(library: ObjectLibrary, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = PlacedObject(model="pybullet-cylinder", position=(0.0, 0.6, 0.0))
    with ImageMaker(library, ScenesConfig(side=64)) as maker:
        for scene, refused in (
            (scene_of(*STACK), False),
            (scene_of(PlacedObject(model="test-table", position=(0.0, -0.9, 0.4)), hidden), True),
        ):
            monkeypatch.setattr(maker.sampler, "sample", lambda generator, scene=scene: scene)
            assert (maker.attempt(0, np.random.default_rng(0)) is None) == refused
