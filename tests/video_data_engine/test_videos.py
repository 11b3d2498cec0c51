"""Videos are listed once, probed with their metadata, split into clips, and sampled."""

from __future__ import annotations

import itertools
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception_encoder.errors import InputError
from perception_encoder.formats.listing import list_items
from perception_encoder.preprocess.frames import colour_change, colour_histogram
from perception_encoder.preprocess.video import sample_frames
from perception_encoder.preprocess.video_file import write_video
from perception_encoder.video_data_engine.config import EngineConfig
from perception_encoder.video_data_engine.journal import FRAMES, ClipRecord, StageResult
from perception_encoder.video_data_engine.videos import (
    MAX_TEXT,
    SHOT_CHANGE,
    find_shot_changes,
    list_videos,
    make_key,
    open_clip_frames,
    probe_video,
    read_metadata_fields,
    sample_clip,
    split_clips,
)
from tests.clips import clip, number_of
from tests.data.tars import write_tar


def test_only_videos_are_listed_each_once(tmp_path: Path) -> None:
    for name in ("b.mp4", "a.webm", "photo.jpg", "notes.txt", "a.json", "b.info.json"):
        (tmp_path / name).write_bytes(b"x")
    records = list(list_videos([tmp_path, tmp_path / "b.mp4"]))
    assert [Path(record.item.path).name for record in records] == ["a.webm", "b.mp4"]
    assert [record.sidecar for record in records] == [tmp_path / "a.json", tmp_path / "b.info.json"]


def test_keys_are_plain_and_tell_files_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for directory in ("x", "y"):
        (tmp_path / directory).mkdir()
        (tmp_path / directory / "Кот & dog.mp4").write_bytes(b"x")
    first, second = (record.key for record in list_videos([tmp_path]))
    assert first != second and first.startswith("dog-") and first.replace("-", "").isalnum()
    monkeypatch.chdir(tmp_path)
    assert [record.key for record in list_videos(["x"])] == [first]
    part, other = list_items(["x/Кот & dog.mp4@1s-2s", "x/Кот & dog.mp4@2s-3s"])
    assert len({make_key(part), make_key(other), first}) == 3


def test_members_of_equal_names_have_their_own_keys_and_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two tars of one name below two directories, and of two directories in a tar."""
    keys = []
    for directory in ("x", "y"):
        members = {f"{part}/c.{kind}": f"{directory}{part}".encode() for part in "ab" for kind in ("mp4", "json")}
        write_tar(tmp_path / directory / "t.tar", members)
        monkeypatch.chdir(tmp_path / directory)
        records = list(list_videos(["t.tar"]))
        assert [record.item.path for record in records] == ["t.tar/a/c.mp4", "t.tar/b/c.mp4"]
        assert [record.sidecar.read("c.json").decode() for record in records] == [f"{directory}a", f"{directory}b"]
        found = [record.key for record in records]
        assert [record.key for record in list_videos([tmp_path / directory / "t.tar"])] == found
        keys += found
    assert len(set(keys)) == 4


def record(path: Path, part: str = "") -> ClipRecord:
    (item,) = list_items([f"{path}{part}"])
    return ClipRecord(key="a", item=item)


def test_facts_of_a_video(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(clip(60, sound=True))
    facts = probe_video(record(path), EngineConfig())
    assert facts["codec"] == "h264"
    assert (facts["duration"], facts["frames"], facts["fps"], facts["clips"]) == (2.4, 60, 25.0, [(None, None)])
    assert probe_video(record(path), EngineConfig(longest=1.0, shortest=0.5))["clips"] == [
        (0, 0.8),
        (0.8, 1.6),
        (1.6, 2.4),
    ]


def test_a_part_of_a_video_is_one_clip(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(clip(60))
    config = EngineConfig(longest=1.0, shortest=0.5)
    assert probe_video(record(tmp_path / "a.mp4", "@0.2s-2s"), config)["clips"] == [(0.2, 2.0)]
    with pytest.raises(InputError, match="there is nothing at 9 s"):
        probe_video(record(tmp_path / "a.mp4", "@9s-10s"), config)


def test_a_file_comes_before_the_container_and_the_table(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"title": "Кот\n на\u0000 столе", "tags": ["cat", "table"], "categories": ["Pets"]}))
    tags = {"TITLE": "My Movie 6", "comment": "made by hand"}
    assert read_metadata_fields(path, tags, "a cat") == {
        "title": "Кот на столе",
        "description": "made by hand",
        "keywords": "cat, table",
        "category": "Pets",
    }
    assert read_metadata_fields(None, {}, "a cat") == {"description": "a cat"}


@pytest.mark.parametrize("title", ["می\u200cخواهم", "क्\u200dष", "👩\u200d🍳 ขนมปัง", "图书馆", "عنوان فيديو"])
def test_words_of_all_scripts_stay_whole(title: str) -> None:
    assert read_metadata_fields(None, {"title": f"{title}\u202e"}, None) == {"title": title}


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff", b"null", b"[" * 100_000])
def test_a_bad_file_is_noted_and_the_rest_is_used(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    assert read_metadata_fields(path, {"title": "A cup"}, None) == {"title": "A cup"}
    assert f"{path} is not" in caplog.text


def test_a_json_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tar = write_tar(tmp_path / "a.tar", {"a.mp4": b"x", "a.json": b'{"title": "A cup"}'})
    (tmp_path / "b.json").write_text('{"title": "A cup"}')
    (member,) = list_videos([tar])
    for limit, title in ((1 << 20, {"title": "A cup"}), (9, {})):
        monkeypatch.setattr("perception_encoder.video_data_engine.videos.MAX_SIDECAR_BYTES", limit)
        for sidecar in (tmp_path / "b.json", member.sidecar):
            assert read_metadata_fields(sidecar, {}, None) == title


def test_fields_of_other_types_are_ignored_and_long_ones_cut(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"title": 7, "video_title": "", "description": "x" * 5000, "keywords": [1, 2]}))
    assert read_metadata_fields(path, {}, None) == {"description": "x" * (MAX_TEXT - 1) + "…"}


CONFIG = EngineConfig(longest=10.0, shortest=2.0)


def shots(*lengths: int, speed: float = 0.25) -> bytes:
    """A video of shots of so many frames, 25 a second, of noise that moves `speed` pixels a frame."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "clip.mp4")
        with write_video(path, (96, 64), 25) as add:
            for seed, length in enumerate(lengths):
                tiles = np.random.default_rng(seed).integers(0, 256, (8, 12, 3), dtype=np.uint8)
                view = tiles.repeat(8, 0).repeat(8, 1)
                for number in range(length):
                    add(np.roll(view, int(number * speed), 1))
        return path.read_bytes()


def test_shot_changes_are_found_to_the_frame() -> None:
    video = shots(33, 60, 41)
    assert find_shot_changes(video, "clip.mp4") == pytest.approx([33 / 25, 93 / 25], abs=0.02)
    assert find_shot_changes(shots(60), "clip.mp4") == []


def test_a_fast_movement_is_no_cut() -> None:
    """In a quarter of a second its colours change as they do in a cut, but not from one frame to the next."""
    still, fast = ([frame.image for frame in sample_frames(shots(40, speed=v), "a", 0.25)] for v in (0, 2.0))
    changes = [
        [colour_change(colour_histogram(one), colour_histogram(two)) for one, two in itertools.pairwise(images)]
        for images in (still, fast)
    ]
    assert max(changes[0]) < 0.1 < SHOT_CHANGE < min(changes[1])
    assert find_shot_changes(shots(40, speed=2.0), "clip.mp4") == []
    assert find_shot_changes(shots(40, 30, speed=2.0), "clip.mp4") == pytest.approx([40 / 25], abs=0.02)


@pytest.mark.parametrize(
    ("duration", "changes", "clips"),
    [
        (9.0, [4.0], [(0.0, 9.0)]),
        (12.0, [4.0], [(0.0, 4.0), (4.0, 12.0)]),
        (12.0, [1.0, 11.5], [(0.0, 6.0), (6.0, 12.0)]),
        (25.0, [5.0], [(0.0, 5.0), (5.0, 15.0), (15.0, 25.0)]),
    ],
)
def test_clips(duration: float, changes: list[float], clips: list[tuple[float, float]]) -> None:
    assert split_clips(duration, changes, CONFIG) == clips


@given(st.floats(10.01, 200), st.lists(st.floats(0.01, 0.99), max_size=20))
def test_clips_cover_the_video_and_keep_their_lengths(duration: float, shares: list[float]) -> None:
    clips = split_clips(duration, sorted(share * duration for share in shares), CONFIG)
    assert clips[0][0] == 0 and clips[-1][1] == pytest.approx(duration, abs=1e-5)
    assert all(first[1] == second[0] for first, second in itertools.pairwise(clips))
    assert all(CONFIG.shortest - 1e-5 <= end - start <= CONFIG.longest + 1e-5 for start, end in clips)


def test_frames_of_a_part_are_reduced_and_read_again(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(clip(60))
    (item,) = list_items([tmp_path / "a.mp4"])
    record = ClipRecord(key="a-0001", video="a", item=replace(item, start=0.8, end=1.6))
    value, frames = sample_clip(record, 3, 32)
    assert value == {"video": "a", "start": 0.8, "end": 1.6, "times": [0.8, 1.2, 1.6]}
    (sampled,) = record.after(StageResult(key=record.key, stage=FRAMES, value=value, frames=frames))
    opened = open_clip_frames(sampled)
    assert [number_of(image.resize((128, 64))) for image in opened.images] == [20, 30, 40]
    assert opened.times == value["times"]
