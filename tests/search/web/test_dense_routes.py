"""The page's routes for features, regions, tracking and depth: what they answer, and bad input to each."""

from __future__ import annotations

import io
import json
import threading
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
from perception_encoder.models.vision_transformer import VisionTransformer
from perception_encoder.preprocess.video import sample_frames
from perception_encoder.search.web.dense_images import FeatureImages
from perception_encoder.search.web.library import MediaLibrary
from perception_encoder.search.web.server import create_page
from perception_encoder.search.web.tracked_videos import VideoTracker
from tests.search.indexes import make_library
from tests.serving.servers import served

PHOTO, CLIP = "04's <b>.jpg", "clip.mp4"
CORNER = {"layer": 2, "at": "0.1,0.9"}
ROUTES = ("inside", "regions", "track", "depth", "depth/image", "depth/colours")


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


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def test_an_image_its_features_and_the_similarity_to_a_point(client: TestClient, library: MediaLibrary) -> None:
    address = f"/api/inside/{id_of(client, PHOTO)}"
    seen = client.get(address)
    assert seen.headers["content-type"] == "image/jpeg" and opened(seen.content).size == (640, 480)
    assert "script-src 'self'" in seen.headers["content-security-policy"]
    first, last, negative = (client.get(address, params={"layer": layer}) for layer in (0, 11, -1))
    assert first.headers["content-type"] == "image/png" and opened(first.content).size == (40, 30)
    assert first.content != last.content == negative.content
    shade = opened(client.get(address, params={"layer": 3, "at": "1,0"}).content)
    assert shade.mode == "LA" and shade.size == (40, 30)
    darkness = np.asarray(shade)[..., 1]
    assert darkness[0, -1] == 0 and darkness.max() == round(0.85 * 255) and not np.asarray(shade)[..., 0].any()


def test_without_a_second_model_none_is_shown(client: TestClient) -> None:
    params = {"layer": "-1", "baseline": "1"}
    status, error = refusal(call(client, "inside", id_of(client, PHOTO), params))
    assert status == 400 and "start it with --features-model" in error
    assert 'id="baseline"' not in client.get("/").text


def test_an_image_goes_through_once_for_all_layers(library: MediaLibrary, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = []
    forward = VisionTransformer.forward_intermediates

    def counted(*given: object, **named: object) -> object:
        passes.append(1)
        return forward(*given, **named)

    monkeypatch.setattr(VisionTransformer, "forward_intermediates", counted)
    features, photo = FeatureImages(library), row_id(library, PHOTO)
    with ThreadPoolExecutor(4) as threads:
        maps = list(threads.map(lambda layer: features.colours(photo, layer), range(12)))
    assert len(passes) == 1 and len(set(maps)) > 1
    for budget, count in ((features.features(photo, 0).nbytes * 100, 1), (1, 2)):
        passes.clear()
        small = FeatureImages(library, budget=budget)
        for path in (PHOTO, "02's <b>.jpg", PHOTO):
            small.image(row_id(library, path))
        assert len(passes) == 1 + count


def test_regions_are_those_of_the_points_over_the_image(library: MediaLibrary) -> None:
    features, photo = FeatureImages(library), row_id(library, PHOTO)
    points = [(0.3, 0.4), (0.9, 0.9)]
    overlay = opened(features.regions(photo, 3, points))
    assert overlay.mode == "RGBA" and overlay.size == opened(features.image(photo)).size == (640, 480)
    labels = label_regions(features.features(photo, 3), points, (640, 480))
    assert np.array_equal(np.asarray(overlay)[..., 3] > 0, labels > 0)
    colours = {tuple(pixel) for pixel in np.asarray(overlay).reshape(-1, 4)}
    assert {(128, 0, 0, 128), (0, 128, 0, 128), (0, 0, 0, 0)} < colours
    assert opened(features.regions(photo, 4, points)).tobytes() != overlay.tobytes()


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
    assert status == 400 and "from an earlier run" in error
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

    monkeypatch.setattr("perception_encoder.dense_prediction.drawing.draw_objects", draw)
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
