"""Settings of a spatial alignment."""

from __future__ import annotations

import pytest

from perception_encoder.errors import ConfigError
from perception_encoder.spatial_alignment.config import SpatialConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"drop_path": 1.0}, "drop_path is 1.0"),
        ({"copies": -1}, "copies is -1"),
        ({"core_weight": -1.0}, "core_weight is -1.0"),
        ({"core_weight": 0.0}, "no loss has a weight"),
        ({"core_weight": 0.0, "masks": "scenes", "masks_weight": 0.0}, "no loss has a weight"),
    ],
)
def test_settings_out_of_range(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SpatialConfig(**settings)  # type: ignore[arg-type]


def test_masks_alone_are_a_loss() -> None:
    assert SpatialConfig(core_weight=0.0, masks="scenes").masks_weight == 1
