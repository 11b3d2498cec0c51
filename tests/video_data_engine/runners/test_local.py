"""Records flow through the processes of this machine, and few of them are in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from perception_encoder.errors import UnknownModelError
from perception_encoder.video_data_engine.config import EngineConfig
from perception_encoder.video_data_engine.record import STAGES, ClipRecord
from perception_encoder.video_data_engine.runners import local
from perception_encoder.video_data_engine.runners.local import run_local
from perception_encoder.video_data_engine.stages import make_stages
from perception_encoder.video_data_engine.videos.listing import list_videos
from tests.video_data_engine.conftest import ECHOES, QUICK


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
