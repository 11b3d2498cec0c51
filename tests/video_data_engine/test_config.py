"""Configurations that are refused."""

from __future__ import annotations

import pytest

from perception_encoder.errors import ConfigError
from perception_encoder.video_data_engine.config import CutConfig, EngineConfig, WorkConfig


def test_the_video_prompt_is_one_that_the_captioner_follows() -> None:
    assert EngineConfig().video_prompt == "video_caption_short_v1"
    assert EngineConfig(captioner="http://x/v1#m").video_prompt == "video_caption_v1"
    assert EngineConfig(video_prompt="video_caption_v1").to_json()["video_prompt"] == "video_caption_v1"


def test_one_model_does_all_unless_others_are_named() -> None:
    real = EngineConfig(captioner="facebook/Perception-LM-1B")
    assert (real.frame_captioner, real.llm) == (real.captioner, real.captioner)
    demo = EngineConfig()
    assert (demo.captioner, demo.frame_captioner, demo.llm) == ("builtin-lang", "builtin-lang", "smollm2")
    assert EngineConfig(captioner="a", frame_captioner="b", llm="smollm2").frame_captioner == "b"


@pytest.mark.parametrize("name", ["captioner", "frame_captioner", "llm"])
def test_a_demo_model_is_not_mixed_with_others(name: str) -> None:
    models = {"captioner": "http://x/v1#m", "frame_captioner": "hf:b", "llm": "http://x/v1#m", name: "builtin-lang"}
    with pytest.raises(ConfigError, match=r"builtin-lang is a demo model, and h\S+ is not; give both captioners"):
        EngineConfig(**models)


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
