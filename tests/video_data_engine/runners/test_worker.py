"""A process of the engine: ready, at work, dead, too slow, or unable to start."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from perception_encoder.errors import UnknownModelError
from perception_encoder.inference.listing import list_items
from perception_encoder.video_data_engine.config import CutConfig, EngineConfig, WorkConfig
from perception_encoder.video_data_engine.record import PROBE, ClipRecord, StageResult
from perception_encoder.video_data_engine.runners.worker import StageProcess
from perception_encoder.video_data_engine.stages import ProbeStage, make_stages
from tests.clips import clip


def test_a_process_answers_until_it_dies(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(clip(6))
    (item,) = list_items([tmp_path / "a.mp4"])
    stage = ProbeStage(cut=CutConfig(), seconds=60.0)
    process = StageProcess([stage], 1)
    assert not process.idle and process.seconds_left == float("inf")
    assert process.receive() == {PROBE: {}} and process.idle
    process.give(stage, [ClipRecord(key="a", item=item)])
    assert not process.idle and 0 < process.seconds_left <= 60
    (outcome,) = process.receive()
    assert isinstance(outcome, StageResult) and outcome.value["frames"] == 6 and process.idle
    os.kill(process._process.pid, signal.SIGKILL)
    assert process.receive() is None and process.end() == "signal 9"


def test_a_process_ends_with_its_connection() -> None:
    process = StageProcess([ProbeStage(cut=CutConfig(), seconds=60.0)], 1)
    process.receive()
    assert process.end() == "exit status 0"


def test_a_model_that_cannot_be_loaded_is_its_own_error() -> None:
    process = StageProcess(make_stages(EngineConfig(captioner="gpt"), WorkConfig())[2:3], 1)
    with pytest.raises(UnknownModelError, match="no language model is called 'gpt'"):
        process.receive()
    process.end()
