"""Settings of the training of heads."""

from __future__ import annotations

import pytest

from perception_encoder.dense_prediction.detection.detr import DetrHeadConfig
from perception_encoder.dense_training.config import DepthTrainingConfig, DetectorConfig
from perception_encoder.errors import ConfigError


def test_bad_settings() -> None:
    with pytest.raises(ConfigError, match=r"scales are \(2, 1\); they must be above 0, the smaller one first"):
        DepthTrainingConfig(scales=(2, 1))
    with pytest.raises(ConfigError, match="steps is 0; it must be at least 1"):
        DepthTrainingConfig(steps=0)


def test_bad_settings_of_a_detector() -> None:
    """Those of all heads, too."""
    with pytest.raises(ConfigError, match=r"scales are \(2, 1\); they must be above 0, the smaller one first"):
        DetectorConfig(scales=(2, 1))
    with pytest.raises(ConfigError, match="flip is -1; it must be at least 0"):
        DetectorConfig(flip=-1)
    with pytest.raises(ConfigError, match=r"a DETR has no masks; set masks=false"):
        DetectorConfig(head=DetrHeadConfig())
    assert not DetectorConfig(head=DetrHeadConfig(), masks=False).masks
