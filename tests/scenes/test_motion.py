"""What moves, moves as the words say: read off poses that are made by hand, and off simulated ones."""

from __future__ import annotations

import json

import av
import numpy as np
import pytest

from perception_encoder.scenes.camera import Camera
from perception_encoder.scenes.models import About, Library
from perception_encoder.scenes.motion import AWAY, Plan, middles, observe, orbit, simulate
from perception_encoder.scenes.scene import Thing
from perception_encoder.scenes.videos import Videos, swept
from tests.scenes.conftest import scene_of

BOX = About(key="b", label="box", kind="box", source="t", licence="CC0-1.0", size=(0.2, 0.2, 0.2))
BALL = About(key="a", label="ball", kind="ball", source="t", licence="CC0-1.0", size=(0.2, 0.2, 0.2), shape="sphere")
RATE, FRAMES = 8, 24


def still(count: int, places: list[tuple[float, float, float]]) -> np.ndarray:
    poses = np.zeros((count, len(places), 7))
    poses[..., :3], poses[..., 6] = places, 1
    return poses


def test_pushes_rolls_and_falls_come_true() -> None:
    things = (
        Thing(model="b", position=(-0.5, 0.0, 0.0)),
        Thing(model="a", position=(0.0, 0.5, 0.0)),
        Thing(model="b", position=(0.5, 0.0, 0.0)),
        Thing(model="b", position=(0.0, -0.5, 0.0)),
    )
    plans = [
        Plan(action="is pushed", thing=0, start=0.2, way=(-1.0, 0.0), reach=0.3),
        Plan(action="rolls", thing=1, start=0.5, way=(0.0, 1.0), reach=0.6),
        Plan(action="falls", thing=2, start=0.9, reach=1.2),
    ]
    abouts = [BOX, BALL, BOX, BOX]
    poses = simulate(scene_of(*things), abouts, plans, FRAMES, RATE)
    events = observe(poses, plans, abouts, 1.0, RATE)
    assert events is not None
    assert [(event.action, event.object, event.start) for event in events] == [
        ("is pushed", 1, 0.2),
        ("rolls", 2, 0.5),
        ("falls", 3, 0.9),
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


def test_what_did_not_happen_is_no_event() -> None:
    push = Plan(action="is pushed", thing=0, start=0.0, reach=0.3)
    poses = still(10, [(0.0, 0.0, 0.0), (0.5, 0.0, 0.0)])
    assert observe(poses, [push], [BOX, BOX], 1.0, RATE) is None  # it stood still
    poses[5:, 0, 0] = 0.2
    assert observe(poses, [push], [BOX, BOX], 1.0, RATE) is not None
    fallen = poses.copy()
    fallen[5:, 0, 3:] = (np.sqrt(0.5), 0, 0, np.sqrt(0.5))
    assert observe(fallen, [push], [BOX, BOX], 1.0, RATE) is None  # it fell over
    poses[5:, 1, 1] = 0.2
    assert observe(poses, [push], [BOX, BOX], 1.0, RATE) is None  # something else moved


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
def videos(library: Library):
    with Videos(library, "train", 32, seed=0) as made:
        yield made


def test_a_video_is_what_its_tracks_say(videos: Videos, tmp_path) -> None:
    sample = videos.sample(1)
    files = dict(sample.files)
    about = json.loads(files["json"])
    assert {
        "category",
        "duration",
        "human_caption",
        "keywords",
        "model_caption",
        "video_id",
        "size_in_bytes",
    } <= about.keys()
    assert about["duration"] == 3 and about["size_in_bytes"] == len(files["mp4"])
    assert about["number_of_events"] == len(about["events"]) > 0
    path = tmp_path / "clip.mp4"
    path.write_bytes(files["mp4"])
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == FRAMES == len(about["cameras"]) and frames[0].shape == (32, 32, 3)
    from PIL import Image

    (tmp_path / "mask.png").write_bytes(files["mask.png"])
    masks = np.asarray(Image.open(tmp_path / "mask.png")).reshape(FRAMES, 32, 32)
    for track in about["tracks"]:
        for mask, box, pixels in zip(masks, track["boxes"], track["pixels"], strict=True):
            rows, columns = np.nonzero(mask == track["id"])
            assert len(rows) == pixels and (box is None) == (pixels == 0)
            if box:
                assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        moved = [event for event in about["events"] if event["object"] == track["id"]]
        places = [place for place in track["positions"] if place]
        assert bool(moved) == (len(places) < FRAMES or np.ptp(np.array(places), axis=0).max() > 0.05)


def test_a_video_depends_on_its_number_alone(videos: Videos, library: Library) -> None:
    first = videos.sample(2)
    with Videos(library, "train", 32, seed=0) as fresh:
        assert fresh.sample(2).files == first.files
    assert videos.sample(3).files != first.files
