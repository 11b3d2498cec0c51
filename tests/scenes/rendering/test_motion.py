"""What moves, moves as the words say: read off poses that are made by hand, and off simulated ones."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import av
import numpy as np
import pytest
from PIL import Image

from perception_encoder.scenes.layout.camera import Camera
from perception_encoder.scenes.layout.scene import Thing, rotation_of
from perception_encoder.scenes.objects.models import About, Library
from perception_encoder.scenes.rendering.motion import AWAY, Plan, middles, observe, orbit, plan, simulate
from perception_encoder.scenes.samples.images import Sample
from perception_encoder.scenes.samples.videos import Videos, encode_mp4, swept
from tests.scenes.conftest import scene_of

BOX = About(key="b", label="box", kind="box", source="t", licence="CC0-1.0", size=(0.2, 0.2, 0.2))
BALL = About(key="a", label="ball", kind="ball", source="t", licence="CC0-1.0", size=(0.2, 0.2, 0.2), shape="sphere")
POST = replace(BOX, size=(0.2, 0.12, 0.4))
RATE, FRAMES = 8, 24


def still(count: int, places: list[tuple[float, float, float]]) -> np.ndarray:
    poses = np.zeros((count, len(places), 7))
    poses[..., :3], poses[..., 6] = places, 1
    return poses


def test_what_is_planned_comes_true() -> None:
    things = (
        Thing(model="b", position=(-0.5, 0.0, 0.0)),
        Thing(model="a", position=(0.0, 0.5, 0.0)),
        Thing(model="b", position=(0.5, 0.0, 0.0)),
        Thing(model="b", position=(0.0, -0.5, 0.0)),
        Thing(model="c", position=(-0.5, -0.5, 0.0)),
    )
    plans = [
        Plan(action="is pushed", thing=0, start=0.2, way=(-1.0, 0.0), reach=0.3),
        Plan(action="rolls", thing=1, start=0.5, way=(0.0, 1.0), reach=0.6),
        Plan(action="falls", thing=2, start=0.9, reach=1.2),
        Plan(action="tips over", thing=4, start=1.2, way=(0.0, -1.0)),
    ]
    abouts = [BOX, BALL, BOX, BOX, POST]
    poses = simulate(scene_of(*things), abouts, plans, FRAMES, RATE)
    events = observe(poses, plans, abouts, 1.0, RATE)
    assert events is not None
    assert [(event.action, event.object, event.start) for event in events] == [
        ("is pushed", 1, 0.2),
        ("rolls", 2, 0.5),
        ("falls", 3, 0.9),
        ("tips over", 5, 1.2),
    ]
    assert all(event.start < event.end < 3 for event in events)
    places = middles(poses, abouts)
    assert places[-1, 0] == pytest.approx((-0.8, 0.0, 0.1), abs=0.05)  # friction stops it after its reach
    assert places[-1, 1] == pytest.approx((0.0, 1.1, 0.1), abs=0.1)
    assert poses[0, 2, 2] == AWAY and places[-1, 2] == pytest.approx((0.5, 0.0, 0.1), abs=0.02)
    assert np.abs(poses[:, 3] - poses[0, 3]).max() < 1e-3
    turned = 2 * np.arccos(np.abs(poses[1:, 1, 3:] * poses[:-1, 1, 3:]).sum(axis=1).clip(0, 1)).sum()
    assert turned == pytest.approx(np.linalg.norm(np.diff(places[:, 1], axis=0), axis=1).sum() / 0.1, rel=0.2)
    again = simulate(scene_of(*things), abouts, plans, FRAMES, RATE)
    assert again.tobytes() == poses.tobytes()
    assert poses[-1, 4, 2] == pytest.approx(0.06, abs=0.02)  # it lies on its side: its bottom stands upright
    assert rotation_of(poses[-1, 4, 3:])[:, 2] == pytest.approx((0, -1, 0), abs=0.1)  # with its top to where it fell


def test_what_did_not_happen_is_no_event() -> None:
    push = Plan(action="is pushed", thing=0, start=0.0, reach=0.3)
    poses = still(10, [(0.0, 0.0, 0.0), (0.5, 0.0, 0.0)])
    assert observe(poses, [push], [BOX, BOX], 1.0, RATE) is None  # it stood still
    poses[5:, 0, 0] = 0.2
    assert observe(poses, [push], [BOX, BOX], 1.0, RATE) is not None
    fallen = poses.copy()
    fallen[5:, 0, 3:] = (np.sqrt(0.5), 0, 0, np.sqrt(0.5))
    assert observe(fallen, [push], [BOX, BOX], 1.0, RATE) is None  # it fell over
    tip = Plan(action="tips over", thing=0, start=0.0)
    assert observe(poses, [tip], [BOX, BOX], 1.0, RATE) is None  # it slid upright
    fallen[5:, 0, 2] = 0.1
    assert observe(fallen, [tip], [BOX, BOX], 1.0, RATE) is not None
    poses[5:, 1, 1] = 0.2
    assert observe(poses, [push], [BOX, BOX], 1.0, RATE) is None  # something else moved


def test_only_slender_things_are_to_tip_over() -> None:
    scene = scene_of(*(Thing(model="b", position=(place, 0.3, 0.0)) for place in (-0.5, 0.0, 0.5)))
    plans = [each for seed in range(60) for each in plan(scene, [BOX, BALL, POST], 3, np.random.default_rng(seed))]
    assert {each.action for each in plans if each.thing == 0} == {"falls", "is pushed"}
    assert {each.action for each in plans if each.thing == 1} == {"rolls"}
    assert {each.action for each in plans if each.thing == 2} == {"falls", "is pushed", "tips over"}
    assert {each.way for each in plans if each.action == "tips over"} <= {(0.0, 1.0), (0.0, -1.0)}  # over the near edge


def test_a_camera_orbits_at_one_distance() -> None:
    camera = Camera((1.0, -2.0, 1.0), (0.2, 0.0, 0.3), 40)
    cameras = orbit(camera, 0.8, 5)
    assert cameras[2].eye == pytest.approx(camera.eye)
    distances = [np.linalg.norm(np.subtract(each.eye, each.target)) for each in cameras]
    assert np.allclose(distances, distances[0])
    flat = [np.subtract(each.eye, each.target)[:2] for each in (cameras[0], cameras[-1])]
    angle = np.arccos(flat[0] @ flat[1] / np.linalg.norm(flat[0]) ** 2)
    assert angle == pytest.approx(0.8)


def test_the_swept_room_has_what_is_near_the_floor() -> None:
    poses = still(2, [(0.0, 0.0, 0.0), (3.0, 0.0, AWAY)])
    poses[1, 0, 0] = 1.0
    corners = swept(poses, [BOX, BOX], 1.0)
    assert corners.min(axis=0) == pytest.approx((-0.1, -0.1, 0.0)) and corners.max(axis=0) == pytest.approx(
        (1.1, 0.1, 0.2)
    )


@pytest.fixture(scope="module")
def sample(library: Library) -> Sample:
    with Videos(library, "train", 32, seed=0) as made:
        return made.sample(1)


def test_a_video_is_what_its_tracks_say(sample: Sample) -> None:
    files = dict(sample.files)
    about = json.loads(files["json"])
    fields = {"category", "duration", "human_caption", "keywords", "model_caption", "video_id", "size_in_bytes"}
    assert fields <= about.keys()
    assert about["duration"] == 3 and about["size_in_bytes"] == len(files["mp4"])
    assert about["number_of_events"] == len(about["events"]) > 0
    with av.open(io.BytesIO(files["mp4"])) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == FRAMES == len(about["cameras"]) and frames[0].shape == (32, 32, 3)
    masks = np.asarray(Image.open(io.BytesIO(files["mask.png"]))).reshape(FRAMES, 32, 32)
    moving = set()
    for track in about["tracks"]:
        for mask, box, pixels in zip(masks, track["boxes"], track["pixels"], strict=True):
            rows, columns = np.nonzero(mask == track["id"])
            assert len(rows) == pixels and (box is None) == (pixels == 0)
            if box:
                assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        places = [place for place in track["positions"] if place]
        spans = [np.ptp(np.array(values), axis=0).max() for values in (places, track["turns"])]
        if len(places) < FRAMES or max(spans) > 0.05:
            moving.add(track["id"])
    assert moving == {event["object"] for event in about["events"]} - {None}
    asked = {question["question"]: question["answer"] for question in about["questions"]}
    assert len(asked) == 8
    assert asked.get("How many things move?", str(len(moving))) == str(len(moving))


def test_a_video_that_begins_without_a_thing_is_refused(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    with Videos(library, "train", 32, seed=0) as made:
        invent, clips = made._invent, []
        monkeypatch.setattr(made, "_invent", lambda generator: clips.append(invent(generator)) or clips[-1])
        made.sample(1)
        falling = clips[-1].poses.copy()
        falling[0, :, 2] = AWAY
        for poses, refused in ((clips[-1].poses, False), (falling, True)):
            clip = replace(clips[-1], poses=poses)
            monkeypatch.setattr(made, "_invent", lambda _, clip=clip: clip)
            assert (made.attempt(1, np.random.default_rng(0)) is None) == refused


def test_the_same_frames_make_the_same_file() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8).repeat(4, axis=0).repeat(4, axis=1)
    frames = [np.roll(noise, step, axis=1) for step in range(16)]
    assert len({encode_mp4(frames, RATE) for _ in range(8)}) == 1


def test_a_video_depends_on_its_number_alone(sample: Sample, library: Library) -> None:
    with Videos(library, "train", 32, seed=0) as fresh:
        assert fresh.sample(1).files == sample.files
