"""The page's features: what their route answers, bad input to it, and the cache."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from perception_encoder.errors import MediaDecodeError
from perception_encoder.inference.encoder import Encoder
from perception_encoder.models.vision_transformer import VisionTransformer
from perception_encoder.preprocess.budget import DECODING
from perception_encoder.search_page.features import FeatureImages
from perception_encoder.search_page.library import MediaLibrary
from perception_encoder.search_page.server import create_page
from tests.clips import HEIGHT, WIDTH, number_of
from tests.search.indexes import make_library

PHOTO, CLIP = "04's <b>.jpg", "clip.mp4"
CORNER = {"layer": 2, "at": "0.1,0.9"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("library") / "photos"


@pytest.fixture(scope="module")
def library(folder: Path, checkpoint: Path, encoder: Encoder, draw: Callable[[int], Image.Image]) -> MediaLibrary:
    return make_library(folder, checkpoint, encoder, draw)


@pytest.fixture(scope="module")
def client(library: MediaLibrary) -> Iterator[TestClient]:
    with TestClient(create_page(library), base_url="http://localhost") as client:
        yield client


def id_of(client: Any, path: str, base: str = "") -> str:
    """The signed id of a file's first row; the clip's has about 40 frames until the end."""
    tiles = client.get(f"{base}/api/hits", params={"count": 200}).json()["tiles"]
    return min((tile for tile in tiles if tile["path"] == path), key=lambda tile: tile["time"])["id"]


def row_id(library: MediaLibrary, path: str) -> str:
    return next(row.id for row in library.index.rows() if row.path == path)


def call(client: TestClient, image_id: str, params: dict[str, Any]) -> httpx.Response:
    return client.get(f"/api/inside/{image_id}", params=params)


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
    status, error = refusal(call(client, id_of(client, PHOTO), params))
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


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"layer": ""}, "layer is ''; it must be a number such as 5"),
        ({"layer": "x", "at": "0.5,0.5"}, "layer is 'x'"),
        ({"layer": "12", "at": "0.5,0.5"}, "has layers 0 to 11"),
        ({"layer": "3", "at": "1.1,0.5"}, "at is '1.1,0.5'; it must be two numbers from 0 to 1"),
        ({"layer": "3", "at": "-0.5,0.5"}, "at is '-0.5,0.5'"),
        ({"layer": "3", "at": "nan,0"}, "at is 'nan,0'"),
        ({"layer": "3", "baseline": "1"}, "layer is 3; the second model only has the last layer, -1"),
    ],
)
def test_bad_layers_and_points(client: TestClient, params: dict[str, Any], message: str) -> None:
    status, error = refusal(call(client, id_of(client, CLIP), params))
    assert status == 400 and message in error


def test_a_moment_is_its_frame_and_a_changed_file_is_computed_anew(
    library: MediaLibrary, folder: Path, draw: Callable[[int], Image.Image]
) -> None:
    features = FeatureImages(library)
    row = next(row for row in library.index.rows() if row.kind == "video")
    assert number_of(opened(features.image(row.id)).resize((WIDTH, HEIGHT))) == round(row.time * 10)
    photo, content = row_id(library, PHOTO), (folder / PHOTO).read_bytes()
    before = features.colours(photo, 3)
    try:
        draw(5).save(folder / PHOTO)
        assert features.colours(photo, 3) != before
        (folder / PHOTO).write_bytes(b"\xff\xd8\xff")
        with pytest.raises(MediaDecodeError, match="04's <b>"):
            features.colours(photo, 3)
        assert DECODING._held == 0
    finally:
        (folder / PHOTO).write_bytes(content)


def test_unknown_ids_and_files_that_are_gone_or_damaged(client: TestClient, folder: Path) -> None:
    status, error = refusal(call(client, "abc-0123", CORNER))
    assert status == 400 and "from an earlier run" in error
    image_id, content = id_of(client, CLIP), (folder / CLIP).read_bytes()
    try:
        (folder / CLIP).write_bytes(content[:300])
        status, error = refusal(call(client, image_id, CORNER))
        assert status == 404 and error.startswith("clip.mp4: ")
        (folder / CLIP).unlink()
        status, error = refusal(call(client, image_id, CORNER))
        assert status == 400 and "no longer in the directory" in error
    finally:
        (folder / CLIP).write_bytes(content)


def test_the_routes_have_the_protection_of_the_page(library: MediaLibrary) -> None:
    page = create_page(library, key="secret")
    with TestClient(page, base_url="http://localhost") as locked:
        locked.headers["Authorization"] = "Bearer secret"
        image_id = id_of(locked, CLIP)
        locked.headers["Authorization"] = "Bearer guess"
        assert call(locked, image_id, CORNER).status_code == 401
        locked.headers["Authorization"] = "Bearer secret"
        foreign = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}
        locked.headers.update(foreign)
        assert call(locked, image_id, CORNER).status_code == 403
