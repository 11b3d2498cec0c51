"""The settings of a video finetuning."""

from __future__ import annotations

import dataclasses

import pytest

from perception_encoder.errors import ConfigError
from perception_encoder.preprocess.augmentation import Mixing
from perception_encoder.pretraining.config import PretrainingConfig
from perception_encoder.pretraining.masking import MaskRegularization
from perception_encoder.video_finetuning.recipes import video_finetune


@pytest.mark.parametrize("change", [{"masking": MaskRegularization()}, {"mixing": Mixing()}])
def test_videos_are_neither_masked_nor_mixed(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="frames and m"):
        dataclasses.replace(video_finetune("b16"), **change)


def test_it_is_the_run_that_a_pretraining_of_the_same_settings_is() -> None:
    config = video_finetune("b16")
    same = PretrainingConfig(**{each.name: getattr(config, each.name) for each in dataclasses.fields(config)})
    assert config.fingerprint(["a"]) == same.fingerprint(["a"])
