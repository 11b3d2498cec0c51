"""The captioners of the experiment in the engine."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from experiments.video import captions as module
from experiments.video.captions import NOTHING, Captions, caption, first_captioner, refined_captioner
from experiments.video.clips import write_clips
from perception_encoder.language_alignment.config import LanguageConfig
from perception_encoder.language_alignment.weights import find_language_model, read_trained
from perception_encoder.models.registry import BUILTIN_LANG
from perception_encoder.video_data_engine import refine
from perception_encoder.video_data_engine.config import EngineConfig
from perception_encoder.video_data_engine.prompts import FRAME_CAPTION
from tests.experiments.video.test_run import video
from tests.video_dataset.clips import write_dataset


def test_the_engine_s_captions_are_those_of_the_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = write_clips(write_dataset(tmp_path / "data", {"test": [[video(0), video(1)]]}), "test", tmp_path / "clips")
    config = EngineConfig
    monkeypatch.setattr(module, "EngineConfig", lambda **fields: config(**{**fields, "captioner": NOTHING}))
    found = caption(clips, tmp_path / "out", tmp_path / "captioner")
    assert list(found) == ["v00", "v01"]
    assert found["v00"] == Captions(found["v00"].video_id, "nothing", ("nothing",), "nothing")
    assert found["v00"].video_id.startswith("v00-")


def test_the_first_captioner_is_the_built_in_one_with_fewer_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = first_captioner(tmp_path)
    (ours, state), (theirs, whole) = (read_trained(item) for item in (path, Path(find_language_model(BUILTIN_LANG))))
    assert (theirs.pool, ours) == (1, dataclasses.replace(theirs, pool=2))
    assert state.keys() == whole.keys() and all(torch.equal(state[name], whole[name]) for name in whole)
    calls: list[tuple[LanguageConfig, Sequence[Path]]] = []
    monkeypatch.setattr(refine, "align_language", lambda config, data, *_: calls.append((config, data)))
    engine = tmp_path / "engine"
    engine.mkdir()
    prompts = {FRAME_CAPTION: "Say it."}
    settings = {"config": {"video_prompt": FRAME_CAPTION}, "prompts": prompts}
    (engine / "settings.json").write_text(json.dumps(settings))
    refined_captioner(path, engine, {}, tmp_path / "second", 7)
    ((config, _),) = calls
    assert (config.pool, config.frames, config.steps, config.initial) == (2, 4, 7, str(path))
