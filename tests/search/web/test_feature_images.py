"""What the page shows of a model's inside, and what it says where that cannot be shown."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from perception_encoder.dense_prediction.regions import label_regions
from perception_encoder.inference.encoder import Encoder
from perception_encoder.models.vision_transformer import VisionTransformer
from perception_encoder.search.web.dense_images import FeatureImages
from perception_encoder.search.web.library import MediaLibrary
from perception_encoder.search.web.server import create_page
from tests.clips import HEIGHT, WIDTH, number_of
from tests.search.indexes import make_library

PICTURE = "04's <b>.jpg"


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


def id_of(library: MediaLibrary, path: str) -> str:
    return next(row.id for row in library.index.rows() if row.path == path)


def address_of(client: TestClient, path: str) -> str:
    tiles = client.get("/api/hits", params={"count": 200}).json()["tiles"]
    return next(f"/api/inside/{tile['id']}" for tile in tiles if tile["path"] == path)


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def test_an_image_its_features_and_the_similarity_to_a_point(client: TestClient, library: MediaLibrary) -> None:
    address = address_of(client, PICTURE)
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


def test_a_second_model_is_shown_beside_it(library: MediaLibrary) -> None:
    with TestClient(create_page(library, features_model="builtin"), base_url="http://localhost") as client:
        address = address_of(client, PICTURE)
        last = {"layer": "-1", "baseline": "1"}
        other, ours = client.get(address, params=last), client.get(address, params={"layer": "-1"})
        assert opened(other.content).size == opened(ours.content).size == (40, 30) and other.content != ours.content
        shade = opened(client.get(address, params={**last, "at": "0,0"}).content)
        assert np.asarray(shade)[0, 0, 1] == 0
        wrong = client.get(address, params={"layer": "3", "baseline": "1"})
        assert wrong.status_code == 400 and "only has the last layer, -1" in wrong.json()["error"]
        assert 'id="baseline"' in client.get("/").text


def test_without_a_second_model_none_is_shown(client: TestClient) -> None:
    response = client.get(address_of(client, PICTURE), params={"layer": "-1", "baseline": "1"})
    assert response.status_code == 400 and "start it with --features-model" in response.json()["error"]
    assert 'id="baseline"' not in client.get("/").text


def test_a_moment_is_shown_by_its_frame(client: TestClient, library: MediaLibrary) -> None:
    tile = next(tile for tile in client.get("/api/hits").json()["tiles"] if tile["kind"] == "video")
    frame = opened(client.get(f"/api/inside/{tile['id']}").content)
    assert number_of(frame.resize((WIDTH, HEIGHT))) == round(tile["time"] * 10) > 0  # ten frames a second


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"layer": "12"}, "has layers 0 to 11"),
        ({"layer": "-13"}, "has layers 0 to 11"),
        ({"layer": "last"}, "layer is 'last'"),
        ({"layer": ""}, "layer is ''"),
        ({"layer": "3", "at": "2,0"}, "at is '2,0'"),
        ({"layer": "3", "at": "nan,nan"}, "at is 'nan,nan'"),
    ],
)
def test_bad_layers_and_points_are_reported(client: TestClient, params: dict[str, str], message: str) -> None:
    response = client.get(address_of(client, PICTURE), params=params)
    assert response.status_code == 400 and message in response.json()["error"]


def test_files_that_cannot_be_shown(client: TestClient, library: MediaLibrary, folder: Path, tmp_path: Path) -> None:
    name = "08's <b>.jpg"
    unknown = client.get("/api/inside/nothing", params={"layer": 0})
    assert unknown.status_code == 400 and "of an earlier run" in unknown.json()["error"]
    address = address_of(client, name)
    assert client.get(address, params={"layer": 0}).status_code == 200
    (folder / name).write_bytes((folder / name).read_bytes()[:300])
    corrupt = client.get(address, params={"layer": 0})
    assert corrupt.status_code == 404 and f"{name}: cannot be decoded" in corrupt.json()["error"]
    (folder / name).unlink()
    gone = client.get(address, params={"layer": 0})
    assert gone.status_code == 400 and "no longer in the directory" in gone.json()["error"]
    (tmp_path / "secret.jpg").write_bytes((folder / "02's <b>.jpg").read_bytes())
    (folder / name).symlink_to(tmp_path / "secret.jpg")
    assert client.get(address, params={"layer": 0}).status_code == 400


def test_an_image_goes_through_once_for_all_layers(library: MediaLibrary, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = []
    forward = VisionTransformer.forward_intermediates

    def counted(*given: object, **named: object) -> object:
        passes.append(1)
        return forward(*given, **named)

    monkeypatch.setattr(VisionTransformer, "forward_intermediates", counted)
    features, row_id = FeatureImages(library), id_of(library, PICTURE)
    with ThreadPoolExecutor(4) as threads:
        maps = list(threads.map(lambda layer: features.colours(row_id, layer), range(12)))
    assert len(passes) == 1 and len(set(maps)) > 1
    for budget, count in ((features.features(row_id, 0).nbytes * 100, 1), (1, 2)):
        passes.clear()
        small = FeatureImages(library, budget=budget)
        for path in (PICTURE, "02's <b>.jpg", PICTURE):
            small.image(id_of(library, path))
        assert len(passes) == 1 + count


def test_regions_are_those_of_the_points_over_the_image(library: MediaLibrary) -> None:
    features, row_id = FeatureImages(library), id_of(library, PICTURE)
    points = [(0.3, 0.4), (0.9, 0.9)]
    overlay = opened(features.regions(row_id, 3, points))
    assert overlay.mode == "RGBA" and overlay.size == opened(features.image(row_id)).size == (640, 480)
    labels = label_regions(features.features(row_id, 3), points, (640, 480))
    assert np.array_equal(np.asarray(overlay)[..., 3] > 0, labels > 0)
    colours = {tuple(pixel) for pixel in np.asarray(overlay).reshape(-1, 4)}
    assert {(128, 0, 0, 128), (0, 128, 0, 128), (0, 0, 0, 0)} < colours
    assert opened(features.regions(row_id, 4, points)).tobytes() != overlay.tobytes()
