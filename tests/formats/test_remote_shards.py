"""Shards on a web server: the same pairs as from a disk, whatever breaks off; and what cannot work is said at once."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from perception_encoder.data import shard_index
from perception_encoder.data.streams import Shards, StreamConfig
from perception_encoder.errors import DataError, MediaDecodeError, MissingExtraError
from tests.data.tars import write_pairs, write_tar
from tests.data.test_streams import batches, caches, equal, load_all, streams
from tests.web import serving

__all__ = ["caches"]


class Storage:
    """Files at a URL, and how the server that has them misbehaves."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.url = ""
        self.ranges, self.says_so, self.tells_size = True, False, True
        self.drops = 0
        """Answers, from now on, that break off after half of their bytes."""
        self.sent = 0

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        content = self.files.get(handler.path.strip("/"))
        if content is None:
            handler.send_error(404)
            return
        wanted, status, part = handler.headers["Range"], 200, content
        if wanted and self.ranges:
            first, last = map(int, wanted.removeprefix("bytes=").split("-"))
            status, part = 206, content[first : last + 1]
        handler.send_response(status)
        if status == 206:
            handler.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(content)}")
        if self.says_so:
            handler.send_header("Accept-Ranges", "bytes" if self.ranges else "none")
        if self.tells_size:
            handler.send_header("Content-Length", str(len(part)))
        handler.send_header("ETag", str(hash(content)))
        handler.end_headers()
        if handler.command == "GET":
            part = part[: len(part) // 2] if self.drops else part
            self.drops = max(0, self.drops - 1)
            self.sent += len(part)
            handler.wfile.write(part)


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    monkeypatch.setattr(shard_index, "RETRY_PAUSES", (0.0, 0.0))
    storage = Storage()
    with serving(storage.answer) as storage.url:
        yield storage


def test_pairs_are_those_of_a_disk_and_a_resumed_run_s_those_of_an_unbroken_one(
    storage: Storage, tmp_path: Path
) -> None:
    for shard in range(2):
        path = write_pairs(tmp_path / f"{shard}.tar", range(10 * shard, 10 * shard + 10))
        storage.files[f"web/{shard}.tar"] = path.read_bytes()
    place = storage.url + "/web/{0..1}.tar"
    local, remote = batches(streams(tmp_path)), batches(streams(place))
    unbroken = [remote(step) for step in range(6)]  # almost two epochs
    assert all(equal(local(step), batch) for step, batch in enumerate(unbroken))
    resumed = batches(streams(place), workers=2)
    storage.drops = 2  # and both were tried again
    assert all(equal(resumed(step), unbroken[step]) and not resumed(step).left_out for step in (4, 5))
    assert storage.drops == 0


def test_no_more_is_fetched_than_a_sample(storage: Storage, tmp_path: Path) -> None:
    storage.files["x.tar"] = write_pairs(tmp_path / "x.tar", range(10), other_bin=bytes(200_000)).read_bytes()
    [stream] = streams(f"{storage.url}/x.tar")
    [again] = streams(f"{storage.url}/x.tar")  # its table is kept: nothing is fetched
    storage.sent = 0
    assert stream.load(3, 1).captions == again.load(3, 1).captions
    assert 0 < storage.sent < 5_000
    storage.files["x.tar"] = write_pairs(tmp_path / "x.tar", range(10), more_bin=bytes(200_000)).read_bytes()
    storage.sent = 0
    assert len(streams(f"{storage.url}/x.tar")[0]) == 10 and storage.sent > 200_000  # of the same size, but another


@pytest.mark.parametrize("says_so", [True, False])
def test_a_server_without_ranges_is_refused_and_a_copy_works(storage: Storage, tmp_path: Path, says_so: bool) -> None:
    storage.ranges, storage.says_so = False, says_so
    storage.files["x.tar"] = write_pairs(tmp_path / "x.tar", range(10)).read_bytes()
    with pytest.raises(DataError, match=r"x\.tar: .* put simplecache::"):
        streams(f"{storage.url}/x.tar")
    [stream] = streams(f"simplecache::{storage.url}/x.tar")
    assert len(load_all(stream)) == 10
    storage.ranges = True
    [stream] = streams(f"{storage.url}/x.tar")
    storage.ranges = False
    with pytest.raises(MediaDecodeError, match="only sends whole files"):
        stream.load(2, 1)


def test_a_connection_that_always_breaks_off(storage: Storage, tmp_path: Path) -> None:
    storage.files["x.tar"] = write_pairs(tmp_path / "x.tar", range(10)).read_bytes()
    storage.drops = 99
    with pytest.raises(DataError, match=r"1 of 1 shards.*x\.tar: cannot be read"):
        streams(f"{storage.url}/x.tar")
    storage.drops = 2  # its third try succeeds
    [stream] = streams(f"{storage.url}/x.tar")
    storage.drops = 99
    with pytest.raises(MediaDecodeError, match=r"x\.tar/n4: cannot be read: "):
        stream.load(4, 1)


def test_what_is_not_there(storage: Storage, tmp_path: Path) -> None:
    good = write_pairs(tmp_path / "0.tar", range(4))
    storage.files["0.tar"] = good.read_bytes()
    with pytest.raises(DataError, match=r"1 of 2 .*1\.tar: cannot be opened: 404"):
        streams(storage.url + "/{0..1}.tar")
    [stream] = streams(storage.url + "/{0..1}.tar", config=StreamConfig(skip_bad_shards=True))
    assert len(stream) == 4
    storage.files["none.tar"] = b"no tar" * 1000
    with pytest.raises(DataError, match=r"none\.tar: cannot be read"):
        streams(f"{storage.url}/none.tar")


def test_a_directory_of_the_web_is_what_its_page_links_to(storage: Storage, tmp_path: Path) -> None:
    storage.files["web"] = b'<a href="/web/a.tar">a</a> <a href="/web/b.tar">b</a> <a href="/web/readme.txt">c</a>'
    for name in "ab":
        storage.files[f"web/{name}.tar"] = write_tar(tmp_path / "x.tar", {}).read_bytes()
    assert Shards(f"{storage.url}/web/").find() == [f"{storage.url}/web/{name}.tar" for name in "ab"]


@pytest.mark.parametrize("place", ["s3://bucket/x.tar", "simplecache::s3://bucket/{0..9}.tar", "s3://bucket/folder"])
def test_without_its_package_a_storage_says_which_extra_has_it(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(MissingExtraError, match=r"s3fs is not installed.*\[s3\]"):
        streams(place)
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(DataError, match=r"gs://bucket/x\.tar: .*gcsfs"):
        streams("gs://bucket/x.tar")
