"""Settings of a language alignment."""

from __future__ import annotations

import pytest

from perception_encoder.errors import ConfigError
from perception_encoder.language_alignment.config import LanguageConfig
from perception_encoder.language_alignment.text.adapters import DecoderLoRA
from perception_encoder.recipes import override


def test_the_parts_are_those_of_the_settings() -> None:
    config = LanguageConfig(layer=5, tiles=4, pool=1, linear=True)
    parts = config.parts
    assert (parts.layer, parts.pool, parts.linear, parts.decoder) == (5, 1, True, "smollm2")
    assert (parts.media.image_size, parts.media.tiles) == (128, 4)
    assert LanguageConfig(image_size=224).parts.media.image_size == 224


def test_settings_can_be_overridden_by_name() -> None:
    config = override(LanguageConfig(), ["train_decoder=true", "lora.rank=4", "tiles=9"])
    assert config.lora == DecoderLoRA(rank=4) and config.tiles == 9


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"drop_path": 0.1}, "set train_vision=true"),
        ({"lora": DecoderLoRA()}, "set train_decoder=true"),
        ({"train_vision": True, "drop_path": 1.0}, "at least 0 and below 1"),
        ({"tiles": -1}, "tiles is -1"),
        ({"steps": 0}, "steps is 0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LanguageConfig(**settings)
