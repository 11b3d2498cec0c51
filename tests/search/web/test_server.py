"""The page's server: what it answers, what it refuses, and that nothing outside the folder is served."""

from __future__ import annotations

import errno
import gc
import io
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from perception_encoder.inference.encoder import Encoder
from perception_encoder.search.index.index import Index
from perception_encoder.search.index.indexing import Reader, update_index, writable_index
from perception_encoder.search.query.asked import parse_asked
from perception_encoder.search.query.calibration import Calibration
from perception_encoder.search.web.library import Library
from perception_encoder.search.web.server import create_page
from tests.search.library import make_library, wait_for

Draw = Callable[[int], Image.Image]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "photos"


@pytest.fixture
def library(folder: Path, checkpoint: Path, encoder: Encoder, draw: Draw) -> Library:
    return make_library(folder, checkpoint, encoder, draw)


@pytest.fixture
def client(library: Library) -> Iterator[TestClient]:
    with TestClient(create_page(library), base_url="http://localhost") as client:
        yield client


def paths(answer: dict) -> list[str]:
    return [tile["path"] for tile in answer["tiles"]]


def test_the_page_and_its_parts(client: TestClient) -> None:
    page = client.get("/")
    assert page.status_code == 200 and "Search photos" in page.text
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert client.get("/static/page.css").headers["content-type"].startswith("text/css")
    assert "javascript" in client.get("/static/page.js").headers["content-type"]
    for name in ("address", "element", "features", "filters", "grid", "query", "tile", "viewer"):
        assert client.get(f"/static/{name}.js").status_code == 200
    assert not re.search(r"style=|\son\w+=|<script>|<style", page.text)  # or the policy would forbid it
    assert client.get("/static/page.html").status_code == client.get("/static/..%2f..%2findex.py").status_code == 404


def test_a_note_stands_on_the_page(library: Library) -> None:
    with TestClient(create_page(library, note="a <small> demo"), base_url="http://localhost") as client:
        assert '<p id="note">a &lt;small&gt; demo</p>' in client.get("/").text


def test_thumbnails_of_an_answer_are_read_together(
    client: TestClient, library: Library, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiles = client.get("/api/hits").json()["tiles"]
    monkeypatch.setattr(Index, "row", None)
    for tile in tiles:
        small = client.get(tile["thumbnail"])
        assert Image.open(io.BytesIO(small.content)).size == (80, 60) or tile["kind"] == "video"
    monkeypatch.undo()
    address = tiles[0]["thumbnail"]
    assert client.get(address.partition("?")[0]).content == client.get(address).content  # read alone
    first = next(tile for tile in tiles if tile["kind"] == "image")
    Image.new("RGB", (64, 64)).save(folder / first["path"])
    library.update()
    library.refresh()
    changed = next(tile for tile in client.get("/api/hits").json()["tiles"] if tile["id"] == first["id"])
    assert changed["thumbnail"] != first["thumbnail"]
    assert Image.open(io.BytesIO(client.get(changed["thumbnail"]).content)).size == (64, 64)


def test_newest_first_in_pages(client: TestClient, library: Library) -> None:
    first = client.get("/api/hits", params={"count": 5}).json()
    assert first["more"] and first["total"] == len(library.index)
    second = client.get("/api/hits", params={"count": 200, "offset": 5}).json()
    assert not second["more"]
    dates = [tile["date"] for tile in first["tiles"] + second["tiles"]]
    assert dates == sorted(dates, reverse=True) and len(dates) == first["total"]
    assert paths(second)[-1] == "00's <b>.jpg"


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"kind": "video"}, {"clip.mp4"}),
        ({"since": "2024"}, {"clip.mp4"}),
        ({"since": "2023-11", "until": "2023"}, {"10's <b>.jpg", "sub/11's <b>.jpg"}),
        ({"until": "2023-01-01"}, {"00's <b>.jpg"}),
        ({"path": "SUB/", "until": "2023-02"}, {"sub/01's <b>.jpg"}),
        ({"path": "2's <b>"}, {"02's <b>.jpg"}),
        ({"path": "') OR 1=1 --"}, set()),
        ({"path": "%"}, set()),
    ],
)
def test_filters(client: TestClient, asked: dict[str, str], expected: set[str]) -> None:
    assert set(paths(client.get("/api/hits", params=asked).json())) == expected
    listed = client.get("/api/hits", params=asked).json()
    found = client.get("/api/hits", params={**asked, "q": "text:a cat", "count": 1}).json()
    assert found["total"] == listed["total"] and (found["total"] > 0) == bool(expected)
    found = client.get("/api/hits", params={**asked, "q": "text:a cat"}).json()
    assert set(paths(found)) == expected


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"kind": "sound"}, "kind is 'sound'"),
        ({"since": "' OR 1"}, "must be a date"),
        ({"q": "text: "}, "the query is empty"),
        ({"q": "like:nothing"}, "of an earlier run"),
        ({"q": f"text:{'9' * 400}:dog"}, "10,000, the limit"),
        ({"q": f"text:dog - {'9' * 400}.5:snow"}, "10,000, the limit"),
        ({"q": "image:0"}, "forgotten"),
        ({"q": "/etc/passwd"}, "is no query"),
        ({"q": ["text:a cat", "-1:text:a cat"]}, "cancel each other"),
    ],
)
def test_what_cannot_be_asked_is_said(client: TestClient, asked: dict[str, str], said: str) -> None:
    response = client.get("/api/hits", params=asked)
    assert response.status_code == 400 and said in response.json()["error"]


def test_a_text_finds_the_nearest_and_a_path_is_a_text(
    client: TestClient, library: Library, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    scores = {row.path: row.vector @ library.encoder.encode_texts("a cat") for row in library.index.rows()}
    found = client.get("/api/hits", params={"q": "text:a cat", "count": 4}).json()
    assert found["total"] == len(library.index)
    assert found["more"] and paths(found) == sorted(scores, key=scores.get, reverse=True)[:4]
    again = client.get("/api/hits", params={"q": "text:a cat", "count": 200, "offset": 4}).json()
    assert len(set(paths(found)) & set(paths(again))) <= 1  # the clip's moments
    picture_score = client.get("/api/hits", params={"q": "text:00's <b>.jpg", "count": 1}).json()["tiles"][0]["score"]
    assert picture_score < 0.99  # it was not opened


def test_by_example(client: TestClient, library: Library, folder: Path, draw: Draw) -> None:
    stream = io.BytesIO()
    draw(7).save(stream, "JPEG", quality=90)
    asked = client.post("/api/image", content=stream.getvalue()).json()["q"]
    best = client.get("/api/hits", params={"q": asked, "count": 1}).json()["tiles"][0]
    assert best["path"] == "sub/07's <b>.jpg" and best["score"] > 0.99
    like = client.get("/api/hits", params={"q": f"like:{best['id']}", "count": 1}).json()["tiles"][0]
    assert like["id"] == best["id"]
    bad = client.post("/api/image", content=b"no picture")
    assert bad.status_code == 400 and "neither an image nor a video" in bad.json()["error"]


def test_by_a_video(client: TestClient, folder: Path) -> None:
    asked = client.post("/api/image", content=(folder / "clip.mp4").read_bytes()).json()["q"]
    best = client.get("/api/hits", params={"q": asked, "count": 1}).json()["tiles"][0]
    assert best["path"] == "clip.mp4" and best["score"] > 0.99


def test_an_image_and_a_text_are_one_query(client: TestClient, library: Library, folder: Path) -> None:
    asked = client.post("/api/image", content=(folder / "04's <b>.jpg").read_bytes()).json()["q"]
    answer = client.get("/api/hits", params={"q": ["text:a cat", f"2:{asked}"], "count": 200}).json()
    assert [(term["weight"], term["kind"]) for term in answer["terms"]] == [(1, "text"), (2, "image")]
    image = next(row.vector for row in library.index.rows() if row.path == "04's <b>.jpg")
    wanted = library.encoder.encode_texts("a cat") + 2 * image
    wanted /= np.linalg.norm(wanted)
    scores = {row.path: row.vector @ wanted for row in library.index.rows() if row.kind == "image"}
    for tile in answer["tiles"]:
        if tile["kind"] == "image":
            assert tile["score"] == pytest.approx(scores[tile["path"]], abs=1e-3)


@pytest.mark.parametrize(
    ("slope", "midpoint", "doubt"), [(10, -1, None), (2, 0.5, r"of \d\d%"), (20, 1, "of under 1%")]
)
def test_low_confidence_names_the_model(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, slope: float, midpoint: float, doubt: str | None
) -> None:
    curve = Calibration(slope=slope, midpoint=midpoint)
    monkeypatch.setattr("perception_encoder.search.web.library.find_calibration", lambda index, query: curve)
    answer = client.get("/api/hits", params={"q": "text:a cat"}).json()
    if doubt is None:
        assert answer["low_confidence"] is None and answer["tiles"][0]["probability"] > 0.5
    else:
        told = f"PE-Core-N16-128 gives even its best hit a probability {doubt}"
        assert re.fullmatch(told, answer["low_confidence"]) and answer["tiles"][0]["probability"] < 0.5
    like = client.get("/api/hits", params={"q": f"like:{answer['tiles'][0]['id']}"}).json()
    assert like["low_confidence"] is None  # hits of an image have no probability
    assert client.get("/api/hits", params={"q": "text:a cat", "path": "nothing"}).json()["low_confidence"] is None


def test_the_built_in_model_is_never_confident(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perception_encoder.search.web.library.is_builtin", lambda index: True)
    for asked in (["text:a cat"], ["text:a cat - snow"]):
        doubt = client.get("/api/hits", params={"q": asked}).json()["low_confidence"]
        assert doubt == "PE-Core-N16-128 knows few objects and gives no probabilities"


def test_terms_are_weighed(client: TestClient, library: Library) -> None:
    tiles = client.get("/api/hits", params={"count": 200}).json()["tiles"]
    more, less = (next(tile["id"] for tile in tiles if tile["path"] == f"0{n}'s <b>.jpg") for n in (2, 4))
    asked = ["text:2:a cat - snow", f"0.5:like:{more}", f"-1.5:like:{less}"]
    answer = client.get("/api/hits", params={"q": asked, "count": 200}).json()
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


def test_thumbnails_files_and_what_is_around(client: TestClient, library: Library, folder: Path) -> None:
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
    client: TestClient, library: Library, folder: Path, tmp_path: Path
) -> None:
    tiles = client.get("/api/hits", params={"count": 200}).json()["tiles"]
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    victim = next(tile for tile in tiles if tile["path"] == "02's <b>.jpg")
    (folder / victim["path"]).unlink()
    assert client.get(f"/file/{victim['id']}").status_code == 400
    (folder / victim["path"]).symlink_to(tmp_path / "secret.jpg")
    response = client.get(f"/file/{victim['id']}")
    assert response.status_code == 400 and b"secret" not in response.content
    for id in ("..%2f..%2fsecret.jpg", "nothing", "' OR 1=1 --"):
        assert client.get(f"/file/{id}").status_code in (400, 404)


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


def test_ids_cannot_be_told_from_names(library: Library) -> None:
    ids = []
    for _ in range(2):
        with TestClient(create_page(library), base_url="http://localhost") as client:
            tiles = client.get("/api/hits?count=200").json()["tiles"]
            ids.append({tile["id"] for tile in tiles})
            for row in library.index.rows():
                for address in ("thumbnail", "file", "api/around", "api/inside"):
                    assert client.get(f"/{address}/{row.id}").status_code == 400
    assert len(ids[0]) == len(ids[1]) == len(library.index) and not ids[0] & ids[1]


def test_the_index_is_renewed_while_it_is_looked_at(client: TestClient, folder: Path, draw: Draw) -> None:
    before = client.get("/api/status").json()
    assert before["running"] is False
    draw(50).save(folder / "new.jpg")
    (folder / "bad.jpg").write_bytes(b"x")
    assert client.post("/api/rescan").status_code == 202
    deadline = time.monotonic() + 60
    while (status := client.get("/api/status").json())["running"] or status["rows"] == before["rows"]:
        assert time.monotonic() < deadline, status
        time.sleep(0.05)
    assert status["rows"] == before["rows"] + 1 and status["failures"] == 1 and status["done"] == status["total"] == 2
    (failed,) = status["failed"]
    assert failed["name"].endswith("bad.jpg") and failed["reason"]
    assert "new.jpg" in paths(client.get("/api/hits").json())
    with Index.for_writing(folder):
        assert client.post("/api/rescan").json()["started"]
        while "another run" not in client.get("/api/status").json()["error"]:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_what_another_process_commits_is_seen(client: TestClient, folder: Path, draw: Draw) -> None:
    with writable_index(folder) as (index, own):
        draw(70).save(folder / "other.jpg")
        update_index(index, own)
    client.get("/api/status")
    assert "other.jpg" in paths(client.get("/api/hits").json())


def test_an_index_made_anew_by_another_model_is_not_written_to(client: TestClient, folder: Path, draw: Draw) -> None:
    with writable_index(folder, "builtin", rebuild=True):
        pass
    draw(71).save(folder / "new.jpg")
    assert "was made anew meanwhile" in client.get("/api/status").json()["error"]
    client.post("/api/rescan")
    time.sleep(1)
    assert len(Index.open(folder)) == 0


def test_vectors_of_queries_are_remembered(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    from perception_encoder.search.web.library import Filter

    first = library.find(parse_asked("text:a cat"), Filter(), 0, 3)
    monkeypatch.setattr(Encoder, "embed_texts", None)
    assert library.find(parse_asked("text:a cat"), Filter(), 0, 3) == first
    other = library.find(parse_asked("-0.5:text:a cat"), Filter(), 0, 3)
    assert other != first  # nor does another weight cost anything
    assert np.isfinite([row["score"] for row in first]).all()


def test_what_is_committed_is_shown_while_files_are_read(
    client: TestClient, library: Library, folder: Path, draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perception_encoder.search.index.indexing._FIRST_COMMIT_SECONDS", 0.0)
    monkeypatch.setattr(Encoder, "batch_size", 2)
    reading, go_on = threading.Event(), threading.Event()
    read = Reader.read

    def stop_at_the_last(self: Reader, files: list) -> list:
        if any(file.path == "z.jpg" for file in files):
            reading.set()
            assert go_on.wait(60)
        return read(self, files)

    monkeypatch.setattr(Reader, "read", stop_at_the_last)
    for number in range(20):
        draw(100 + number).save(folder / f"new {number:02d}.jpg")
    draw(99).save(folder / "z.jpg")
    before = client.get("/api/status").json()["rows"]
    client.post("/api/rescan")
    assert reading.wait(60)
    try:
        wait_for(lambda: client.get("/api/status").json()["rows"] > before, "rows of the first files")
        status = client.get("/api/status").json()
        assert status["running"] and 0 < status["done"] < status["total"] == 21
        assert "new 00.jpg" in paths(client.get("/api/hits", params={"count": 200}).json())
        found = client.get("/api/hits", params={"q": "text:a cat", "count": 200}).json()
        assert "new 00.jpg" in paths(found)
    finally:
        go_on.set()
    wait_for(lambda: not client.get("/api/status").json()["running"], "the end")
    assert client.get("/api/status").json()["rows"] == before + 21


def test_an_index_that_cannot_be_written_is_one_line(
    client: TestClient, library: Library, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(path: Path, taken: str) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr("perception_encoder.search.index.index.holding", refuse)
    library.update()
    status = client.get("/api/status").json()
    assert "Read-only file system" in status["error"] and "--index DIR" in status["error"]
    assert "\n" not in status["error"] and not status["running"] and not caplog.text
    assert client.get("/api/hits").json()["tiles"]


def test_failed_uploads_leave_nothing_in_memory(client: TestClient, draw: Draw) -> None:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (600, 800, 3), dtype=np.uint8)).save(stream, "JPEG")
    damaged = stream.getvalue()[:-3000]
    client.post("/api/image", content=damaged)
    gc.collect()
    gc.disable()
    try:
        for _ in range(5):
            assert client.post("/api/image", content=damaged).status_code == 400
        objects = gc.get_objects()  # by type: some objects of other libraries do not like to be asked
        left = [each for each in objects if issubclass(type(each), Image.Image) and each.size == (800, 600)]
        assert len(left) <= 1  # the last one, by whatever thread took it
    finally:
        gc.enable()


def test_the_model_runs_in_one_thread(library: Library, draw: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: set[int] = set()
    for name in ("embed_pixels", "embed_texts"):
        method = getattr(Encoder, name)
        monkeypatch.setattr(
            Encoder, name, lambda *given, method=method: (threads.add(threading.get_ident()), method(*given))[1]
        )
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
