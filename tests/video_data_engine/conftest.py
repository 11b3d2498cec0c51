"""A directory of small videos, and the engine with models of which every question is noted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from perception_encoder.video_data_engine.config import EngineConfig, WorkConfig
from tests.clips import clip
from tests.video_data_engine.models import ECHO

ECHOES = EngineConfig(captioner=ECHO, frame_captioner=ECHO, llm=ECHO, frames=3, captioned_frames=2, side=64)
QUICK = WorkConfig(workers=1, batch_size=2, pause=0.0)
AddVideo = Callable[..., Path]


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which the models note what they are given."""
    path = tmp_path / "log"
    path.touch()
    monkeypatch.setenv("ENGINE_LOG", str(path))
    return path


@pytest.fixture
def add_video(tmp_path: Path, log: Path) -> AddVideo:
    """`add_video("a", title="deadly")` writes a video of 60 frames, or `content`, with a JSON file."""
    directory = tmp_path / "videos"
    directory.mkdir()

    def add(name: str, content: bytes | None = None, **fields: object) -> Path:
        path = directory / f"{name}.mp4"
        path.write_bytes(clip(60) if content is None else content)
        if fields:
            path.with_suffix(".json").write_text(json.dumps(fields))
        return path

    return add
