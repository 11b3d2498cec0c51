"""The page's routes for regions, tracking and depth: what they answer, and bad input to each."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from perception_encoder.dense_prediction.regions import label_regions
from perception_encoder.inference.encoder import Encoder
from perception_encoder.preprocess.video import sample_frames
from perception_encoder.search.web.dense_images import DepthMaps, FeatureImages
from perception_encoder.search.web.dense_routes import NO_HEAD
from perception_encoder.search.web.library import MediaLibrary
from perception_encoder.search.web.server import create_page
from perception_encoder.search.web.tracked_videos import VideoTracker
from tests.search.indexes import make_library
from tests.search.web.heads import write_depth_head
from tests.serving.servers import served

PHOTO, CLIP = "04's <b>.jpg", "clip.mp4"
CORNER = {"layer": 2, "at": "0.1,0.9"}
ROUTES = ("regions", "track", "depth", "depth/image", "depth/colours")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("library") / "photos"


@pytest.fixture(scope="module")
def library(folder: Path, checkpoint: Path, encoder: Encoder, draw: Callable[[int], Image.Image]) -> MediaLibrary:
    return make_library(folder, checkpoint, encoder, draw)


@pytest.fixture(scope="module")
def client(library: MediaLibrary, depth_head: Path) -> Iterator[TestClient]:
    with TestClient(create_page(library, depth_head=depth_head), base_url="http://localhost") as client:
        yield client


def id_of(client: Any, path: str, base: str = "") -> str:
    """The signed id of a file's first row; the clip's has about 40 frames until the end."""
    tiles = client.get(f"{base}/api/hits", params={"count": 200}).json()["tiles"]
    return min((tile for tile in tiles if tile["path"] == path), key=lambda tile: tile["time"])["id"]


def row_id(library: MediaLibrary, path: str) -> str:
    return next(row.id for row in library.index.rows() if row.path == path)


def call(client: TestClient, route: str, image_id: str, params: dict[str, Any] | None = None) -> httpx.Response:
    name, _, part = route.partition("/")
    address = f"/api/{name}/{image_id}" + (f"/{part}" if part else "")
    return client.post(address, params=params) if name == "track" else client.get(address, params=params)


def refusal(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]


def test_regions_are_an_image_over_the_models_input(client: TestClient, library: MediaLibrary) -> None:
    points = [(0.25, 0.5), (1.0, 0.0)]
    params = {"layer": -2, "at": ["0.25,0.5", "1,0"]}
    response = call(client, "regions", id_of(client, PHOTO), params)
    assert response.headers["content-type"] == "image/png"
    overlay = np.asarray(Image.open(io.BytesIO(response.content)))
    features = FeatureImages(library).features(row_id(library, PHOTO), 10)
    assert np.array_equal(overlay[..., 3] > 0, label_regions(features, points, (640, 480)) > 0)


@pytest.mark.parametrize("route", ["regions", "track"])
@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"at": "0.5,0.5"}, "layer is ''; it must be a number such as 5"),
        ({"layer": "x", "at": "0.5,0.5"}, "layer is 'x'"),
        ({"layer": "12", "at": "0.5,0.5"}, "has layers 0 to 11"),
        ({"layer": "3"}, "0 points were given; give 1 to 6, such as at=0.25,0.5"),
        ({"layer": "3", "at": ["0.5,0.5"] * 7}, "7 points were given"),
        ({"layer": "3", "at": "1.1,0.5"}, "at is '1.1,0.5'; it must be two numbers from 0 to 1"),
        ({"layer": "3", "at": ["0.5,0.5", "-0.5,0.5"]}, "at is '-0.5,0.5'"),
        ({"layer": "3", "at": "nan,0"}, "at is 'nan,0'"),
    ],
)
def test_bad_layers_and_points(client: TestClient, route: str, params: dict[str, Any], message: str) -> None:
    status, error = refusal(call(client, route, id_of(client, CLIP), params))
    assert status == 400 and message in error


@pytest.mark.parametrize("route", ROUTES)
def test_unknown_ids_and_files_that_are_gone_or_damaged(client: TestClient, folder: Path, route: str) -> None:
    status, error = refusal(call(client, route, "abc-0123", CORNER))
    assert status == 400 and "of an earlier run" in error
    image_id, content = id_of(client, CLIP), (folder / CLIP).read_bytes()
    try:
        (folder / CLIP).write_bytes(content[:300])
        status, error = refusal(call(client, route, image_id, CORNER))
        assert status == 404 and error.startswith("clip.mp4: ")
        (folder / CLIP).unlink()
        status, error = refusal(call(client, route, image_id, CORNER))
        assert status == 400 and "no longer in the directory" in error
    finally:
        (folder / CLIP).write_bytes(content)


@pytest.mark.parametrize("route", ROUTES)
def test_the_routes_have_the_protection_of_the_page(library: MediaLibrary, depth_head: Path, route: str) -> None:
    page = create_page(library, key="secret", depth_head=depth_head)
    with TestClient(page, base_url="http://localhost") as locked:
        locked.headers["Authorization"] = "Bearer secret"
        image_id = id_of(locked, CLIP)
        locked.headers["Authorization"] = "Bearer guess"
        assert call(locked, route, image_id, CORNER).status_code == 401
        locked.headers["Authorization"] = "Bearer secret"
        foreign = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}
        locked.headers.update(foreign)
        assert call(locked, route, image_id, CORNER).status_code == 403


def test_a_video_is_tracked_and_handed_over_once(client: TestClient) -> None:
    response = call(client, "track", id_of(client, CLIP), CORNER)
    assert response.status_code == 200 and response.headers["content-type"] == "application/x-ndjson"
    *progress, end = [json.loads(line) for line in response.text.splitlines()]
    total = progress[0]["total"]
    assert progress == [{"done": done, "total": total} for done in range(1, total + 1)]
    assert end["limit"] is None and end["video"].startswith("/api/tracked/")
    video = client.get(end["video"])
    assert video.headers["content-type"] == "video/mp4" and video.headers["cache-control"] == "no-store"
    assert "media-src 'self' blob:;" in video.headers["content-security-policy"]
    assert len(list(sample_frames(video.content, every=0))) == total
    assert refusal(client.get(end["video"])) == (400, "this video has been deleted; track the regions again")
    guessed = client.get("/api/tracked/0123456789abcdef")
    assert guessed.status_code == 400


def test_the_limit_is_told(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("tracked_videos", "dense_routes"):
        monkeypatch.setattr(f"perception_encoder.search.web.{module}.SECONDS", 0.5)
    response = call(client, "track", id_of(client, CLIP), CORNER)
    assert json.loads(response.text.splitlines()[-1])["limit"] == 0.5


def test_an_image_is_not_tracked(client: TestClient) -> None:
    status, error = refusal(call(client, "track", id_of(client, PHOTO), CORNER))
    assert status == 400 and error == f"{PHOTO} is an image; regions can only be tracked through a video"


def test_an_error_in_the_midst_of_a_video_is_the_last_line(
    client: TestClient, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = VideoTracker._decode

    def damaged(self: VideoTracker, frames: Iterator[Image.Image], size: int) -> Iterator[Image.Image]:
        for number, frame in enumerate(decode(self, frames, size)):
            yield frame if number < 3 else frame.resize((32, 32))

    monkeypatch.setattr(VideoTracker, "_decode", damaged)
    response = call(client, "track", id_of(client, CLIP), CORNER)
    *progress, end = [json.loads(line) for line in response.text.splitlines()]
    assert len(progress) == 3 and end == {"error": "frame 3: has 32x32 pixels, the first frame 128x64"}


def test_a_video_that_waits_for_another_says_so(library: MediaLibrary, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answer begins at once, and not when the other video is tracked."""
    monkeypatch.setattr("perception_encoder.search.web.tracked_videos._WAITING_SECONDS", 0.05, raising=False)
    gate, begun = threading.Event(), threading.Event()

    def draw(image: Image.Image, labels: np.ndarray) -> Image.Image:
        begun.set()
        assert gate.wait(60)
        return image

    monkeypatch.setattr("perception_encoder.search.web.tracked_videos.draw_objects", draw)
    monkeypatch.setattr("perception_encoder.search.web.tracked_videos.SECONDS", 0.3)
    with served(create_page(library)) as base, ThreadPoolExecutor(1) as other:
        address = f"{base}/api/track/{id_of(httpx, CLIP, base)}"
        try:
            first = other.submit(httpx.post, address, params=CORNER, timeout=60)
            assert begun.wait(60)
            with httpx.stream("POST", address, params=CORNER, timeout=10) as response:
                assert response.status_code == 200
                lines = response.iter_lines()
                assert [json.loads(next(lines)) for _ in range(2)] == [{"waiting": True}] * 2
                gate.set()
                *progress, end = [json.loads(line) for line in lines]
        finally:
            gate.set()
    assert "video" in end and [line["done"] for line in progress if "done" in line] == [1, 2, 3]
    assert "video" in first.result().text


def test_a_browser_that_goes_ends_the_tracking(library: MediaLibrary, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[float] = []

    def draw(image: Image.Image, labels: np.ndarray) -> Image.Image:
        drawn.append(time.monotonic())
        time.sleep(0.05)
        return image

    monkeypatch.setattr("perception_encoder.search.web.tracked_videos.draw_objects", draw)
    with served(create_page(library)) as base:
        address = f"{base}/api/track/{id_of(httpx, CLIP, base)}"
        with httpx.stream("POST", address, params=CORNER) as response:
            first = json.loads(next(response.iter_lines()))
            assert first["done"] == 1
        deadline = time.monotonic() + 20
        while time.monotonic() - drawn[-1] < 1:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert len(drawn) < first["total"]
        assert httpx.post(address, params=CORNER, timeout=60).status_code == 200


def test_depth_is_read_at_points(client: TestClient, library: MediaLibrary, depth_head: Path) -> None:
    depth = DepthMaps(library, depth_head).map(row_id(library, PHOTO))
    image_id = id_of(client, PHOTO)
    about = call(client, "depth", image_id).json()
    ends = {"nearest": float(depth.metres.min()), "farthest": float(depth.metres.max())}
    assert about == {**ends, "unit": "m", "model": depth_head.name}
    reading = call(client, "depth", image_id, {"at": "0.5,0.25"}).json()
    assert reading == {**about, "depth": depth.at(0.5, 0.25)} and 0 < reading["depth"] < 100
    image, colours = (call(client, f"depth/{part}", image_id) for part in ("image", "colours"))
    assert image.headers["content-type"] == "image/jpeg" and image.content == depth.image
    assert colours.headers["content-type"] == "image/png" and colours.content == depth.colours
    status, error = refusal(call(client, "depth", image_id, {"at": "0.5,2"}))
    assert status == 400 and "at is '0.5,2'" in error


def test_heads_that_cannot_be_used_are_told(library: MediaLibrary, checkpoint: Path, tmp_path: Path) -> None:
    other = write_depth_head(tmp_path / "other.safetensors", checkpoint, weights="0" * 64)
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(other.read_bytes()[:500])
    for head, message in ((other, "belongs to"), (damaged, "empty, damaged, or not a checkpoint")):
        with TestClient(create_page(library, depth_head=head), base_url="http://localhost") as client:
            status, error = refusal(call(client, "depth", id_of(client, PHOTO)))
            assert status == 400 and head.name in error and message in error


def test_a_page_without_a_head_says_how_to_get_one(library: MediaLibrary, client: TestClient) -> None:
    with TestClient(create_page(library), base_url="http://localhost") as without:
        for route in ("depth", "depth/image", "depth/colours"):
            assert refusal(call(without, route, id_of(without, PHOTO))) == (404, NO_HEAD)
        page = without.get("/").text
        assert "pe train depth --data DATA -o runs/depth" in page and 'id="boundary"' not in page
    page = client.get("/").text
    assert "--depth-head" not in page and 'id="boundary"' in page
