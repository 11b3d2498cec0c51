"""Configurations that are refused."""

from __future__ import annotations

import pytest

from perception_encoder.errors import ConfigError
from perception_encoder.video_data_engine.config import CutConfig, EngineConfig, WorkConfig


def test_the_video_prompt_is_one_that_the_captioner_follows() -> None:
    assert EngineConfig().video_prompt == "video_caption_short_v1"
    assert EngineConfig(captioner="http://x/v1#m").video_prompt == "video_caption_v1"
    assert EngineConfig(video_prompt="video_caption_v1").to_json()["video_prompt"] == "video_caption_v1"


@pytest.mark.parametrize(
    ("kind", "fields", "reason"),
    [
        (CutConfig, {"longest": 3.0}, "at least twice as long"),
        (CutConfig, {"shortest": 0.0}, "both above 0"),
        (EngineConfig, {"frames": 0}, "frames is 0; it must be at least 1"),
        (EngineConfig, {"captioned_frames": 9}, "captioned_frames is 9; a clip has 8 frames"),
        (WorkConfig, {"tries": 0}, "tries is 0; it must be at least 1"),
        (WorkConfig, {"timeout": 0.0}, "the timeout must be above 0"),
        (WorkConfig, {"gpu_share": 1.5}, "gpu_share is 1.5; it must be above 0 and at most 1"),
    ],
)
def test_what_is_refused(kind: type, fields: dict[str, float], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        kind(**fields)
