"""Records flow through the processes of this machine, and few of them are in memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from perception_encoder.errors import UnknownModelError
from perception_encoder.video_data_engine.config import EngineConfig
from perception_encoder.video_data_engine.record import STAGES, ClipRecord, Outcome
from perception_encoder.video_data_engine.runners import local, worker
from perception_encoder.video_data_engine.runners.local import run_local
from perception_encoder.video_data_engine.stages import make_stages
from perception_encoder.video_data_engine.videos.listing import list_videos
from tests.video_data_engine.conftest import ECHOES, QUICK
from tests.video_data_engine.models import ECHO, SLEEPER


def test_stages_follow_each_other_and_records_are_read_as_they_are_needed(
    add_video, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(8):
        add_video(f"{number}")
    monkeypatch.setattr(local, "IN_FLIGHT", 1)
    begun: list[str] = []
    ended: set[str] = set()
    most = 0

    def records() -> Iterator[ClipRecord]:
        nonlocal most
        for record in list_videos([tmp_path / "videos"]):
            begun.append(record.key)
            most = max(most, len(begun) - len(ended))
            yield record

    stages: dict[str, list[str]] = {}
    facts: dict[str, object] = {}
    for outcome in run_local(make_stages(ECHOES, QUICK), records(), QUICK, facts.__setitem__):
        stages.setdefault(outcome.key, []).append(outcome.stage)
        ended |= {outcome.key} if outcome.stage == STAGES[-1] else set()
    assert len(ended) == 8 and all(tuple(each) == STAGES for each in stages.values())
    assert most <= 3 and facts.keys() == set(STAGES)


def test_a_model_that_cannot_be_loaded_ends_the_run(add_video, tmp_path: Path) -> None:
    add_video("a")
    stages = make_stages(EngineConfig(captioner="gpt"), QUICK)
    with pytest.raises(UnknownModelError, match="'gpt'"):
        list(run_local(stages, list_videos([tmp_path / "videos"]), QUICK, lambda *_: None))


@pytest.fixture
def endings(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """How the processes of a run ended, by their last stage; each has a minute to end."""
    endings: dict[str, str] = {}

    class Process(worker.StageProcess):
        def end(self, at_once: bool = False) -> str:
            return endings.setdefault([*self.stages][-1], super().end(at_once))

    monkeypatch.setattr(local, "StageProcess", Process)
    monkeypatch.setattr(worker, "END_SECONDS", 60.0)
    return endings


def stop_at(run: Iterator[Outcome], stage: str, count: int = 1) -> float:
    """Stop a run after so many outcomes of a stage; the seconds until all its processes have ended."""
    seen = 0
    for outcome in run:
        seen += outcome.stage == stage
        if seen == count:
            break
    started = time.monotonic()
    run.close()
    return time.monotonic() - started


def test_a_stopped_run_ends_a_busy_process_at_once_and_lets_an_idle_one_finish(
    add_video, tmp_path: Path, endings: dict[str, str]
) -> None:
    for name in "ab":  # whichever is the first to be summed up: its summary takes a minute
        add_video(name, title="slow")
    stages = make_stages(replace(ECHOES, llm=f"{ECHO}_again"), replace(QUICK, batch_size=1))
    run = run_local(stages, list_videos([tmp_path / "videos"]), QUICK, lambda *_: None)
    assert stop_at(run, "frame_captions", 2) < 30
    assert endings == {"frames": "exit status 0", "frame_captions": "exit status 0", "summary": "signal 9"}


def test_a_stopped_run_ends_a_process_that_is_loading_at_once(
    add_video, tmp_path: Path, endings: dict[str, str]
) -> None:
    add_video("a")
    add_video("b")
    stages = make_stages(replace(ECHOES, captioner=SLEEPER), QUICK)  # its loading takes a minute
    run = run_local(stages, list_videos([tmp_path / "videos"]), QUICK, lambda *_: None)
    assert stop_at(run, "frames", 2) < 30
    assert endings == {"frames": "exit status 0", "video_caption": "signal 9"}
