"""Records flow through the processes of this machine, and few of them are in memory."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from perception_encoder.errors import PerceptionEncoderError, UnknownModelError
from perception_encoder.video_data_engine import local
from perception_encoder.video_data_engine.config import EngineConfig
from perception_encoder.video_data_engine.journal import STAGES, ClipRecord, Outcome, StageResult
from perception_encoder.video_data_engine.local import run_local
from perception_encoder.video_data_engine.stages import make_stages
from perception_encoder.video_data_engine.videos import list_videos
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
    assert len(ended) == 8 and all(tuple(stage) == STAGES for stage in stages.values())
    assert most <= 3 and facts.keys() == set(STAGES)


def test_stages_wait_for_a_slow_one_after_them(add_video, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long video is read as one record and becomes many clips: they must not pile up before the slow model."""
    add_video("a", title="long")
    monkeypatch.setattr(local, "IN_FLIGHT", 1)
    monkeypatch.setenv("ENGINE_PAUSE", "0.3")  # of each summary
    work = replace(QUICK, batch_size=1)
    config = replace(ECHOES, llm=f"{ECHO}_again", longest=0.2, shortest=0.1)
    counts: Counter[str] = Counter()
    waiting = []
    for outcome in run_local(make_stages(config, work), list_videos([tmp_path / "videos"]), work, lambda *_: None):
        counts[outcome.stage] += 1
        waiting.append(counts["frame_captions"] - counts["summary"])
    assert counts["summary"] == counts["frame_captions"] >= 10
    assert max(waiting) <= 4  # two in the queue, one at the model, one in between


def test_a_model_that_cannot_be_loaded_ends_the_run(add_video, tmp_path: Path) -> None:
    add_video("a")
    stages = make_stages(EngineConfig(captioner="gpt"), QUICK)
    with pytest.raises(UnknownModelError, match="'gpt'"):
        list(run_local(stages, list_videos([tmp_path / "videos"]), QUICK, lambda *_: None))


def stop_at(run: Iterator[Outcome], stage: str, count: int = 1) -> float:
    """Stop a run after so many outcomes of a stage; return the seconds until all its processes have ended."""
    seen = 0
    for outcome in run:
        seen += outcome.stage == stage
        if seen == count:
            break
    started = time.monotonic()
    run.close()
    assert not multiprocessing.active_children()
    return time.monotonic() - started


def test_a_stopped_run_ends_busy_and_idle_processes(add_video, tmp_path: Path) -> None:
    for name in "ab":  # whichever is summarized first takes a minute
        add_video(name, title="slow")
    stages = make_stages(replace(ECHOES, llm=f"{ECHO}_again"), replace(QUICK, batch_size=1))
    run = run_local(stages, list_videos([tmp_path / "videos"]), QUICK, lambda *_: None)
    assert stop_at(run, "frame_captions", 2) < 30


def test_a_stopped_run_ends_a_process_that_is_loading(add_video, tmp_path: Path) -> None:
    add_video("a")
    add_video("b")
    stages = make_stages(replace(ECHOES, captioner=SLEEPER), QUICK)  # its loading takes a minute
    run = run_local(stages, list_videos([tmp_path / "videos"]), QUICK, lambda *_: None)
    assert stop_at(run, "frames", 2) < 30


@pytest.mark.parametrize("state", ["idle", "busy"])
def test_a_killed_worker_is_replaced_and_loses_nothing(
    add_video, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    monkeypatch.setenv("ENGINE_PAUSE", "0.3" if state == "busy" else "")
    for number in range(6):
        add_video(f"{number}", title=f"title {number}")
    stages = make_stages(replace(ECHOES, llm=f"{ECHO}_again"), replace(QUICK, batch_size=1))
    outcomes: list[tuple[str, str]] = []
    killed: set[int] = set()
    for outcome in run_local(stages, list_videos([tmp_path / "videos"]), QUICK, lambda *_: None):
        assert isinstance(outcome, StageResult), outcome
        outcomes.append((outcome.key, outcome.stage))
        workers = [process.pid for process in multiprocessing.active_children()]
        if outcome.stage == STAGES[-1] and not killed and len(outcomes) > 8:
            for pid in workers:
                os.kill(pid, signal.SIGKILL)
            killed |= set(workers)
            if state == "idle":
                time.sleep(0.5)  # nothing is handed out meanwhile
    assert killed and len(outcomes) == len(set(outcomes)) == 6 * len(STAGES)


def test_a_worker_that_ends_while_it_loads_ends_the_run(add_video, tmp_path: Path) -> None:
    add_video("a")
    stages = make_stages(replace(ECHOES, captioner="python:tests.video_data_engine.models:deadly_start"), QUICK)
    with pytest.raises(PerceptionEncoderError, match="a worker of video_caption ended"):
        list(run_local(stages, list_videos([tmp_path / "videos"]), QUICK, lambda *_: None))
