"""What an output was made with, and what may not change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from perception_encoder.errors import OutputError
from perception_encoder.video_data_engine.config import EngineConfig
from perception_encoder.video_data_engine.prompts import EnginePrompt
from perception_encoder.video_data_engine.settings import EngineSettings

PROMPTS = [EnginePrompt("mine", "Describe it.")]


def test_models_and_runs_are_stored(tmp_path: Path) -> None:
    settings = EngineSettings(tmp_path, EngineConfig(), PROMPTS)
    settings.add_model("summary", {"name": "llm", "weights": "12ab"})
    EngineSettings(tmp_path, EngineConfig(), PROMPTS).add_model("summary", {"name": "llm", "weights": "12ab"})
    values = json.loads((tmp_path / "settings.json").read_text())
    assert values["models"] == {"summary": {"name": "llm", "weights": "12ab"}}
    assert [set(run) >= {"started", "python", "torch", "perception_encoder"} for run in values["runs"]] == [True, True]


def test_another_prompt_model_or_configuration_is_refused(tmp_path: Path) -> None:
    settings = EngineSettings(tmp_path, EngineConfig(), PROMPTS)
    settings.add_model("summary", {"name": "llm", "weights": "12ab"})
    with pytest.raises(OutputError, match="was made with another weights, '12ab' and not '34cd'"):
        settings.add_model("summary", {"name": "llm", "weights": "34cd"})
    with pytest.raises(OutputError, match=r"was made with another mine, 'Describe it\.' and not 'Look\.'"):
        EngineSettings(tmp_path, EngineConfig(), [EnginePrompt("mine", "Look.")])
    with pytest.raises(OutputError, match="another captioner, 'builtin-lang' and not 'hf:other'; give the same"):
        EngineSettings(tmp_path, EngineConfig(captioner="hf:other"), PROMPTS)
