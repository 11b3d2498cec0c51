"""The segmentation head: its config, and what it learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from perception_encoder.dense_prediction.head_fitting import FitConfig
from perception_encoder.dense_prediction.segmentation import SegmentationConfig, class_share_loss, fit_segmentation
from perception_encoder.errors import ConfigError


def test_an_even_kernel_is_refused() -> None:
    with pytest.raises(ConfigError, match="kernel is 2"):
        SegmentationConfig(kernel=2)


def test_classes_that_features_tell_are_learned_and_unscored_pixels_are_not() -> None:
    labels = np.array([[0, 0, 1, 1]] * 4)
    features = np.eye(2, dtype=np.float32)[labels[::2, ::2]][None].repeat(8, axis=0)  # (8, 2, 2, 2)
    unscored = np.where(np.arange(4) == 0, -1, labels)
    config = SegmentationConfig(fit=FitConfig(epochs=40, batch=4, lr=0.05))
    head = fit_segmentation(features, lambda index: unscored, 2, config)
    assert (head.predict(torch.from_numpy(features[:1]), (2, 2))[0].numpy() == labels[::2, ::2]).all()


def test_the_first_class_is_scored_and_pixels_below_0_are_not() -> None:
    labels = torch.tensor([[0, -1], [0, 0]])[None].repeat_interleave(4, 1).repeat_interleave(4, 2)
    loss = class_share_loss(torch.zeros(1, 2, 2, 2), labels)
    assert loss.item() == pytest.approx(0.75 * 0.693147, rel=1e-4)
