"""Settings of a language alignment."""

from __future__ import annotations

from dataclasses import fields

import pytest

from perception_encoder.errors import ConfigError
from perception_encoder.language_alignment.config import LanguageConfig
from perception_encoder.language_alignment.text.adapters import DecoderLoRA
from perception_encoder.language_alignment.weights import Parts
from perception_encoder.preprocess.tiling import MediaConfig
from perception_encoder.training.settings import override


def test_the_parts_are_those_of_the_settings() -> None:
    config = LanguageConfig(layer=5, tiles=4, pool=1, linear=True)
    parts = config.parts
    assert (parts.layer, parts.pool, parts.linear, parts.decoder) == (5, 1, True, "smollm2")
    assert (parts.media.image_size, parts.media.tiles) == (128, 4)
    assert LanguageConfig(image_size=224).parts.media.image_size == 224


@pytest.mark.parametrize("lora", [None, DecoderLoRA(rank=4)])
def test_settings_of_parts_have_these_parts(lora: DecoderLoRA | None) -> None:
    parts = Parts(
        encoder="PE-Core-S16-384",
        layer=5,
        layer_scale=0.1,
        decoder="fresh",
        context=64,
        chat_template="{{ messages }}",
        pool=1,
        linear=True,
        lora=lora,
        media=MediaConfig(image_size=224, tiles=9),
    )
    defaults = [field.name for field in fields(Parts) if getattr(parts, field.name) == field.default]
    assert defaults == ([] if lora else ["lora"]), "the test would not see that these are left out"
    config = LanguageConfig.of_parts(parts)
    assert config.parts == parts and config.train_decoder == (lora is not None)


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
