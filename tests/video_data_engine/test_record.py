"""Records through the stages, and the clips of a video."""

from __future__ import annotations

from perception_encoder.inference.listing import Item
from perception_encoder.video_data_engine.record import FRAMES, PROBE, STAGES, ClipRecord, StageResult, clips_of

VIDEO = ClipRecord(key="a", item=Item("a.mp4", "a.mp4"))


def test_a_record_waits_for_the_first_stage_it_lacks() -> None:
    record, waited = VIDEO, []
    while (stage := record.next_stage) is not None:
        waited.append(stage)
        frames = (b"jpeg",) if stage == FRAMES else ()
        record = record.after(StageResult(key="a", stage=stage, value={"of": stage}, frames=frames))
    assert tuple(waited) == STAGES and record.frames == (b"jpeg",)
    assert VIDEO.results == {}


def test_clips_have_keys_and_times_of_their_own() -> None:
    probed = VIDEO.after(StageResult(key="a", stage=PROBE, value={"clips": [[0.0, 2.0], [2.0, 3.5]]}))
    clips = clips_of(probed)
    assert [(clip.key, clip.video, clip.item.start, clip.item.end) for clip in clips] == [
        ("a-0000", "a", 0.0, 2.0),
        ("a-0001", "a", 2.0, 3.5),
    ]
    whole = VIDEO.after(StageResult(key="a", stage=PROBE, value={"clips": [[None, None]]}))
    assert clips_of(whole) == [whole]
