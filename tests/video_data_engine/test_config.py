"""Configurations and prompts, and those that are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from perception_encoder.errors import ConfigError, DataError
from perception_encoder.video_data_engine.config import EngineConfig, WorkConfig, load_prompt


@pytest.mark.parametrize("name", ["captioner", "frame_captioner", "llm"])
def test_a_demo_model_is_not_mixed_with_others(name: str) -> None:
    models = {"captioner": "http://x/v1#m", "frame_captioner": "hf:b", "llm": "http://x/v1#m", name: "builtin-lang"}
    with pytest.raises(ConfigError, match="builtin-lang is a demo model"):
        EngineConfig(**models)


@pytest.mark.parametrize(
    ("kind", "fields", "reason"),
    [
        (EngineConfig, {"longest": 3.0}, "at least twice as long"),
        (EngineConfig, {"shortest": 0.0}, "shortest is 0.0; it must be above 0"),
        (EngineConfig, {"frames": 0}, "frames is 0; it must be at least 1"),
        (EngineConfig, {"captioned_frames": 9}, "captioned_frames is 9; a clip has 8 frames"),
        (WorkConfig, {"tries": 0}, "tries is 0; it must be at least 1"),
        (WorkConfig, {"timeout": 0.0}, "timeout is 0.0; it must be above 0"),
    ],
)
def test_what_is_refused(kind: type, fields: dict[str, float], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        kind(**fields)


def test_a_prompt_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("Shorten, for $$5: $video_caption\n")
    prompt = load_prompt(str(path))
    assert (prompt.name, prompt.fill({"video_caption": "a $5 $cup {x}"})) == ("mine", "Shorten, for $5: a $5 $cup {x}")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("summary_v99", "no prompt is called 'summary_v99'; give one of frame_caption_v1"),
        ("missing.txt", "cannot be read: No such file"),
        ("empty.txt", "must be a text"),
        ("latin.txt", "cannot be read: 'utf-8' codec"),
        ("fields.txt", "whose fields are .metadata, .title"),
        ("dollar.txt", "write .. for a dollar"),
    ],
)
def test_prompts_that_are_refused(name: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").touch()
    Path("latin.txt").write_bytes(b"caf\xe9")
    Path("fields.txt").write_text("$caption")
    Path("dollar.txt").write_text("5 $ a cup")
    with pytest.raises((ConfigError, DataError), match=reason):
        load_prompt(name)
    with pytest.raises(ConfigError, match="whose fields are none"):
        Path("summary.txt").write_text("$title")
        load_prompt("summary.txt", ())
