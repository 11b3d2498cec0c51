"""What a distillation does not go with."""

from __future__ import annotations

import dataclasses

import pytest

from perception_encoder.distillation.recipes import distill_builtin
from perception_encoder.errors import ConfigError
from perception_encoder.pretraining.masking import MaskRegularization


@pytest.mark.parametrize("change", [{"masking": MaskRegularization()}, {"frames": 8}])
def test_masks_and_videos_are_refused(change: dict) -> None:
    with pytest.raises(ConfigError, match="leave masking and frames at null"):
        dataclasses.replace(distill_builtin(), **change)
