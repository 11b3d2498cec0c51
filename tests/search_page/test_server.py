"""The page's server: what it answers, what it refuses, and that nothing outside the folder is served."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from perception_encoder.search_page.library import MediaLibrary, stored_secret
from perception_encoder.search_page.server import create_page
from tests.search.indexes import forge, paths
from tests.serving.servers import record_model_threads

pytestmark = pytest.mark.security

Draw = Callable[[int], Image.Image]


def test_the_page_and_its_parts(client: TestClient) -> None:
    page = client.get("/")
    assert page.headers["cache-control"] == "no-store"
    assert page.status_code == 200 and "Search photos" in page.text
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert client.get("/static/page.css").headers["content-type"].startswith("text/css")
    assert "javascript" in client.get("/static/page.js").headers["content-type"]
    scripts = files("perception_encoder.search_page") / "page"
    for name in (path.name for path in scripts.iterdir() if path.name.endswith(".js")):
        assert client.get(f"/static/{name}").status_code == 200
    assert not re.search(r"style=|\son\w+=|<script>|<style", page.text)  # or the policy would forbid it
    assert client.get("/static/page.html").status_code == client.get("/static/..%2f..%2findex.py").status_code == 404


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"kind": "sound"}, "kind is 'sound'"),
        ({"since": "' OR 1"}, "is not a date"),
        ({"q": "text: "}, "the query is empty"),
        ({"q": f"text:a{' ' * 15_000}a"}, "15,002 characters; the limit is 10,000"),
        ({"q": "like:nothing"}, "from an earlier run"),
        ({"q": f"text:{'9' * 400}:dog"}, "10,000, the limit"),
        ({"q": f"text:dog - {'9' * 400}.5:snow"}, "10,000, the limit"),
        ({"q": "image:0"}, "has expired"),
        ({"q": "/etc/passwd"}, "is not a query"),
        ({"q": ["text:a cat", "-1:text:a cat"]}, "cancel each other"),
    ],
)
def test_what_cannot_be_asked_is_reported(client: TestClient, params: dict[str, str], message: str) -> None:
    response = client.get("/api/hits", params=params)
    assert response.status_code == 400 and message in response.json()["error"]


def test_terms_are_weighed(client: TestClient, library: MediaLibrary) -> None:
    tiles = client.get("/api/hits", params={"count": 200}).json()["tiles"]
    more, less = (next(tile["id"] for tile in tiles if tile["path"] == f"0{n}'s <b>.jpg") for n in (2, 4))
    lines = ["text:2:a cat - snow", f"0.5:like:{more}", f"-1.5:like:{less}"]
    answer = client.get("/api/hits", params={"q": lines, "count": 200}).json()
    terms = [(term["weight"], term["kind"], term["what"]) for term in answer["terms"]]
    assert terms == [(2, "text", "a cat"), (-1, "text", "snow"), (0.5, "like", more), (-1.5, "like", less)]
    cat, snow = library.encoder.encode_texts(["a cat", "snow"])
    rows = {row.id: row for row in library.index.rows()}
    signed = {tile["id"]: tile["id"].partition("-")[0] for tile in tiles}
    rows = {shown: rows[id] for shown, id in signed.items()}
    wanted = 2 * cat - snow + 0.5 * rows[more].vector - 1.5 * rows[less].vector
    wanted /= np.linalg.norm(wanted)
    for tile in answer["tiles"]:
        assert tile["score"] == pytest.approx(rows[tile["id"]].vector @ wanted, abs=1e-5)
    assert answer["tiles"][-1]["id"] == less


def test_thumbnails_files_and_what_is_around(client: TestClient, library: MediaLibrary, folder: Path) -> None:
    tiles = client.get("/api/hits", params={"count": 200}).json()["tiles"]
    picture = next(tile for tile in tiles if tile["path"] == "04's <b>.jpg")
    thumbnail = client.get(f"/thumbnail/{picture['id']}")
    assert (
        Image.open(io.BytesIO(thumbnail.content)).size == (80, 60) and "max-age" in thumbnail.headers["cache-control"]
    )
    assert client.get(f"/file/{picture['id']}").content == (folder / "04's <b>.jpg").read_bytes()
    around = client.get(f"/api/around/{picture['id']}").json()
    names = [f"{'sub/' if n % 2 else ''}{n:02d}'s <b>.jpg" for n in range(11)]
    assert paths(around) == names
    moment = next(tile for tile in tiles if tile["kind"] == "video")
    part = client.get(f"/file/{moment['id']}", headers={"Range": "bytes=10-19"})
    assert part.status_code == 206 and part.content == (folder / "clip.mp4").read_bytes()[10:20]
    starts = [tile["start"] for tile in client.get(f"/api/around/{moment['id']}").json()["tiles"]]
    assert starts == sorted(starts) and starts[0] == 0


def test_nothing_outside_the_folder_is_served(
    client: TestClient, library: MediaLibrary, folder: Path, tmp_path: Path
) -> None:
    tiles = client.get("/api/hits", params={"count": 200}).json()["tiles"]
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    victim = next(tile for tile in tiles if tile["path"] == "02's <b>.jpg")
    (folder / victim["path"]).unlink()
    assert client.get(f"/file/{victim['id']}").status_code == 400
    assert client.get(f"/thumbnail/{victim['id']}").status_code == 200, "the index still shows it"
    (folder / victim["path"]).symlink_to(tmp_path / "secret.jpg")
    response = client.get(f"/file/{victim['id']}")
    assert response.status_code == 400 and b"secret" not in response.content
    for size in ("", "/large", "/full"):
        for version in ("", f"?{victim['thumbnail'].partition('?')[2]}"):
            assert client.get(f"/thumbnail/{victim['id']}{size}{version}").status_code == 400
    for id in ("..%2f..%2fsecret.jpg", "nothing", "' OR 1=1 --"):
        assert client.get(f"/file/{id}").status_code in (400, 404)


@pytest.mark.parametrize("name", [".env", "evil.html", ".pe-index/index.sqlite", "../secret.jpg", "/etc/hostname"])
def test_a_row_of_a_stranger_serves_no_other_file(
    name: str, client: TestClient, library: MediaLibrary, folder: Path
) -> None:
    tiles = client.get("/api/hits", params={"count": 200}).json()["tiles"]
    victim = next(tile for tile in tiles if tile["path"] == "02's <b>.jpg")
    for path in (folder / ".env", folder / "evil.html", folder.parent / "secret.jpg"):
        path.write_bytes(b"secret")
    forge(folder, victim["path"], path=name)
    for address in (f"/file/{victim['id']}", f"/thumbnail/{victim['id']}", f"/api/inside/{victim['id']}"):
        response = client.get(address)
        assert response.status_code == 400 and b"secret" not in response.content.replace(name.encode(), b"")
        assert "no image or video in the directory" in response.json()["error"]


def test_other_pages_and_names_are_refused(client: TestClient) -> None:
    assert client.post("/api/rescan", headers={"Origin": "https://evil.example"}).status_code == 403
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 400


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_another_page_may_link_here_and_learns_nothing_else(client: TestClient, site: str) -> None:
    tile = client.get("/api/hits").json()["tiles"][0]
    missing = tile["id"][:-1] + ("0" if tile["id"][-1] != "0" else "1")
    image = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}
    frame = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}
    link = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    addresses = (tile["thumbnail"], f"/thumbnail/{missing}", f"/file/{tile['id']}", "/api/status", "/static/page.css")
    for address in addresses:
        for headers in (image, frame, link):
            refused = client.get(address, headers=headers)
            assert refused.status_code == 403 and refused.content == client.get("/", headers=image).content
            assert refused.headers["cross-origin-resource-policy"] == "same-origin"
    assert client.get("/", headers=link).status_code == 200
    assert client.get(tile["thumbnail"], headers={**image, "Sec-Fetch-Site": "same-origin"}).status_code == 200
    for address in (*addresses, "/", "/nothing"):
        assert client.get(address).headers["cross-origin-resource-policy"] == "same-origin"
    assert client.get("/", headers={"Host": "evil"}).headers["cross-origin-resource-policy"] == "same-origin"


def test_the_model_runs_in_one_thread(library: MediaLibrary, draw: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = record_model_threads(monkeypatch)
    stream = io.BytesIO()
    draw(3).save(stream, "JPEG")
    with TestClient(create_page(library), base_url="http://localhost") as client:
        tiles = client.get("/api/hits").json()["tiles"]

        def ask(number: int) -> None:
            client.get("/api/hits", params={"q": f"text:number {number}"})
            client.post("/api/image", content=stream.getvalue())
            client.get(f"/api/inside/{tiles[number]['id']}", params={"layer": 0})

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(ask, range(6)))
    assert len(threads) == 1


def test_an_upload_whose_decoder_stops_other_threads_is_small(library: MediaLibrary) -> None:
    Image.new("L", (2001, 2001)).save(stream := io.BytesIO(), "JPEG2000")
    with TestClient(create_page(library), base_url="http://localhost") as client:
        answer = client.post("/api/image", content=stream.getvalue())
    assert answer.status_code == 400 and "a server opens JPEG2000 up to 4,000,000" in answer.text


def test_ids_cannot_be_told_from_names(library: MediaLibrary) -> None:
    ids = []
    for _ in range(2):
        with TestClient(create_page(library), base_url="http://localhost") as client:
            tiles = client.get("/api/hits?count=200").json()["tiles"]
            ids.append({tile["id"] for tile in tiles})
            for row in library.index.rows():
                for address in ("thumbnail/{}", "thumbnail/{}/full", "file/{}", "api/around/{}", "api/inside/{}"):
                    assert client.get(f"/{address.format(row.id)}").status_code == 400
    assert len(ids[0]) == len(ids[1]) == len(library.index) and not ids[0] & ids[1]


def test_a_stored_secret_keeps_addresses_over_runs(library: MediaLibrary, tmp_path: Path) -> None:
    path = tmp_path / "settings" / "secret"
    first, second = stored_secret(path), stored_secret(path)
    assert first == second and first is not None and len(first) == 32 and path.stat().st_mode & 0o777 == 0o600
    assert stored_secret(tmp_path / "other") != first
    pages = [create_page(library, secret=first) for _ in range(2)]
    with TestClient(pages[0], base_url="http://localhost") as client:
        tile = client.get("/api/hits").json()["tiles"][0]
    with TestClient(pages[1], base_url="http://localhost") as client:
        assert client.get(f"/file/{tile['id']}").status_code == 200
    path.write_bytes(b"short")
    assert stored_secret(path) is None and stored_secret(path / "below") is None
