"""A video's frames, masks and tracks agree, and a video is maker again byte for byte."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import av
import numpy as np
import pytest
from PIL import Image

from synthetic.scenes.objects.models import ObjectInfo, ObjectLibrary
from synthetic.scenes.rendering.motion import AWAY
from synthetic.scenes.samples.sample import SceneSample, ScenesConfig
from synthetic.scenes.samples.videos import VideoMaker, _encode_mp4, _swept_corners

BOX = ObjectInfo(key="b", label="box", class_name="box", source="t", licence="CC0-1.0", size=(0.2, 0.2, 0.2))
CONFIG = ScenesConfig(side=32, videos=True)


def test_the_swept_room_holds_the_objects_near_the_floor() -> None:
    poses = np.zeros((2, 2, 7))
    poses[..., 6] = 1
    poses[:, 1, 2] = AWAY
    poses[1, 0, 0] = 1.0
    corners = _swept_corners(poses, [BOX, BOX], 1.0)
    assert corners.min(axis=0) == pytest.approx((-0.1, -0.1, 0.0))
    assert corners.max(axis=0) == pytest.approx((1.1, 0.1, 0.2))


@pytest.fixture(scope="module")
def sample(library: ObjectLibrary) -> SceneSample:
    with VideoMaker(library, CONFIG) as maker:
        return maker.sample(1)


def test_tracks_and_events_agree_with_the_frames(sample: SceneSample) -> None:
    files = dict(sample.files)
    metadata = json.loads(files["json"])
    fields = {"category", "duration", "human_caption", "keywords", "model_caption", "video_id", "size_in_bytes"}
    assert fields <= metadata.keys()
    assert metadata["duration"] == 3 and metadata["size_in_bytes"] == len(files["mp4"])
    assert metadata["number_of_events"] == len(metadata["events"]) > 0
    with av.open(io.BytesIO(files["mp4"])) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == CONFIG.frames == len(metadata["cameras"]) and frames[0].shape == (32, 32, 3)
    masks = np.asarray(Image.open(io.BytesIO(files["mask.png"]))).reshape(CONFIG.frames, 32, 32)
    moving = set()
    for track in metadata["tracks"]:
        for mask, box, pixels in zip(masks, track["boxes"], track["pixels"], strict=True):
            rows, columns = np.nonzero(mask == track["id"])
            assert len(rows) == pixels and (box is None) == (pixels == 0)
            if box:
                assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        places = [place for place in track["positions"] if place]
        spans = [np.ptp(np.array(values), axis=0).max() for values in (places, track["turns"])]
        if len(places) < CONFIG.frames or max(spans) > 0.05:
            moving.add(track["id"])
    assert moving == {event["object"] for event in metadata["events"]} - {None}
    answers = {question["question"]: question["answer"] for question in metadata["questions"]}
    assert len(answers) == 8
    assert answers.get("How many things move?", str(len(moving))) == str(len(moving))


def test_a_video_that_begins_empty_is_refused(library: ObjectLibrary, monkeypatch: pytest.MonkeyPatch) -> None:
    with VideoMaker(library, CONFIG) as maker:
        simulate, videos = maker._simulate, []
        monkeypatch.setattr(maker, "_simulate", lambda generator: videos.append(simulate(generator)) or videos[-1])
        maker.sample(1)
        falling = videos[-1].poses.copy()
        falling[0, :, 2] = AWAY
        for poses, refused in ((videos[-1].poses, False), (falling, True)):
            video = replace(videos[-1], poses=poses)
            monkeypatch.setattr(maker, "_simulate", lambda _, video=video: video)
            assert (maker.attempt(1, np.random.default_rng(0)) is None) == refused


def test_the_same_frames_make_the_same_file() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8).repeat(4, axis=0).repeat(4, axis=1)
    frames = [np.roll(noise, step, axis=1) for step in range(16)]
    assert len({_encode_mp4(frames) for _ in range(8)}) == 1


def test_a_video_depends_on_its_number_alone(sample: SceneSample, library: ObjectLibrary) -> None:
    with VideoMaker(library, CONFIG) as fresh:
        assert fresh.sample(1).files == sample.files
