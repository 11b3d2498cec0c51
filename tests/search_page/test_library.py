"""The content of the page: filters, cached queries, and an index that is updated meanwhile."""

from __future__ import annotations

import errno
import gc
import io
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.model_spec import ModelSpec
from perception_encoder.search.storage.store import IndexStore
from perception_encoder.search.storage.update import FileReader, update_store, writable_store
from perception_encoder.search_page.library import MediaLibrary
from tests.search.indexes import make_library, paths, wait_for

Draw = Callable[[int], Image.Image]


def test_newest_first_in_pages(client: TestClient, library: MediaLibrary) -> None:
    first = client.get("/api/hits", params={"count": 5}).json()
    assert first["more"] and first["total"] == len(library.index)
    second = client.get("/api/hits", params={"count": 200, "offset": 5}).json()
    assert not second["more"]
    dates = [tile["date"] for tile in first["tiles"] + second["tiles"]]
    assert dates == sorted(dates, reverse=True) and len(dates) == first["total"]
    assert paths(second)[-1] == "00's <b>.jpg"


@pytest.mark.parametrize(
    ("params", "expected"),
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
def test_filters(client: TestClient, params: dict[str, str], expected: set[str]) -> None:
    listed = client.get("/api/hits", params=params).json()
    assert set(paths(listed)) == expected
    found = client.get("/api/hits", params={**params, "q": "text:a cat", "count": 1}).json()
    assert found["total"] == listed["total"] and (found["total"] > 0) == bool(expected)
    found = client.get("/api/hits", params={**params, "q": "text:a cat"}).json()
    assert set(paths(found)) == expected


def test_what_another_process_commits_is_seen(client: TestClient, folder: Path, draw: Draw) -> None:
    with writable_store(folder, ModelSpec()) as (index, own):
        draw(70).save(folder / "other.jpg")
        update_store(index, own)
    client.get("/api/status")
    assert "other.jpg" in paths(client.get("/api/hits").json())


def test_an_index_made_anew_by_another_model_is_not_written_to(client: TestClient, folder: Path, draw: Draw) -> None:
    with writable_store(folder, ModelSpec("builtin"), rebuild=True):
        pass
    draw(71).save(folder / "new.jpg")
    assert "has been rebuilt" in client.get("/api/status").json()["error"]
    client.post("/api/rescan")
    time.sleep(1)
    assert len(IndexStore.open(folder)) == 0


def test_what_is_committed_is_shown_while_files_are_read(
    client: TestClient, library: MediaLibrary, folder: Path, draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perception_encoder.search.storage.update.FIRST_COMMIT_SECONDS", 0.0)
    monkeypatch.setattr(Encoder, "batch_size", 2)
    reading, go_on = threading.Event(), threading.Event()
    read = FileReader.read

    def stop_at_the_last(self: FileReader, files: list) -> list:
        if any(file.path == "z.jpg" for file in files):
            reading.set()
            assert go_on.wait(60)
        return read(self, files)

    monkeypatch.setattr(FileReader, "read", stop_at_the_last)
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
    client: TestClient, library: MediaLibrary, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(path: Path, *_: str) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr("perception_encoder.search.storage.writer.holding", refuse)
    library.update()
    status = client.get("/api/status").json()
    assert "Read-only file system" in status["error"] and "store the index elsewhere: pe index" in status["error"]
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
        left = [item for item in objects if issubclass(type(item), Image.Image) and item.size == (800, 600)]
        assert len(left) <= 1  # the last one, by whatever thread took it
    finally:
        gc.enable()


def test_files_are_looked_for_every_so_often(
    tmp_path: Path, checkpoint: Path, encoder: Encoder, draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "photos"
    library = make_library(folder, checkpoint, encoder, draw, tmp_path / "index")
    updates: list[int] = []
    update = MediaLibrary.update
    monkeypatch.setattr(MediaLibrary, "update", lambda self: (update(self), updates.append(1)))
    (folder / "bad.jpg").write_bytes(b"x")
    library.watch(seconds=0.1)
    wait_for(lambda: len(updates) == 1, "the first update")
    draw(50).save(folder / "new.jpg")
    wait_for(lambda: "new.jpg" in library.index.files(), "a new file")
    wait_for(lambda: len(updates) == 2, "its update")
    (folder / "new.jpg").unlink()
    wait_for(lambda: "new.jpg" not in library.index.files(), "a file that is gone")
    wait_for(lambda: len(updates) == 3, "its update")
    time.sleep(1)
    assert len(updates) == 3  # nothing has changed, and the bad file is not read again and again
    draw(51).save(folder / "bad.jpg")
    wait_for(lambda: "bad.jpg" in library.index.files(), "a file that is good now")


def test_a_failed_update_is_tried_again(
    tmp_path: Path, checkpoint: Path, encoder: Encoder, draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, tries = tmp_path / "photos", list[int]()
    library = make_library(folder, checkpoint, encoder, draw)

    def fail_twice(*arguments: object) -> object:
        tries.append(1)
        if len(tries) < 3:
            raise OSError("No space left on device")
        return update_store(*arguments)

    monkeypatch.setattr("perception_encoder.search_page.library.update_store", fail_twice)
    draw(50).save(folder / "new.jpg")
    library.watch(seconds=0.1)
    wait_for(lambda: "new.jpg" in library.index.files(), "the third try")
    wait_for(lambda: not library.progress.running, "its end")
    time.sleep(1)
    assert len(tries) == 3 and not library.progress.error


# ---- thumbnails


@pytest.fixture
def large_images(library: MediaLibrary, folder: Path, draw: Draw) -> None:
    draw(50).resize((1600, 1200)).save(folder / "wide.jpg")
    draw(51).resize((900, 1200)).save(folder / "tall.png")
    library.update()
    library.index.refresh()


def large_of(client: TestClient, path: str) -> str:
    """The address of a file's large thumbnail, as the page makes it."""
    tiles = client.get("/api/hits", params={"count": 200}).json()["tiles"]
    return next(tile["thumbnail"] for tile in tiles if tile["path"] == path).replace("?", "/large?")


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


@pytest.mark.usefixtures("large_images")
def test_without_its_file_the_stored_thumbnail_is_the_answer(client: TestClient, folder: Path, tmp_path: Path) -> None:
    address = large_of(client, "wide.jpg")
    stored = client.get(address.replace("/large?", "?")).content
    (folder / "wide.jpg").rename(tmp_path / "secret.jpg")
    assert client.get(address).content == stored
    (folder / "wide.jpg").symlink_to(tmp_path / "secret.jpg")  # outside the folder
    assert client.get(address).status_code == 400
    (folder / "wide.jpg").unlink()
    (folder / "wide.jpg").write_bytes((tmp_path / "secret.jpg").read_bytes()[:500])
    assert client.get(address).content == stored
    (tmp_path / "secret.jpg").replace(folder / "wide.jpg")
    assert opened(client.get(address).content).size == (640, 480)  # a failure is not cached


def test_the_thumbnail_of_a_changed_file_has_another_address(
    client: TestClient, library: MediaLibrary, folder: Path
) -> None:
    first = next(tile for tile in client.get("/api/hits").json()["tiles"] if tile["path"] == "04's <b>.jpg")
    Image.new("RGB", (64, 64)).save(folder / first["path"])
    library.update()
    library.index.refresh()
    changed = next(tile for tile in client.get("/api/hits").json()["tiles"] if tile["id"] == first["id"])
    assert changed["thumbnail"] != first["thumbnail"]
    assert opened(client.get(changed["thumbnail"]).content).size == (64, 64)
