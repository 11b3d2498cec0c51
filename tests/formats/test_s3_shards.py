"""Shards in a bucket of S3, by a server that speaks its protocol: the same pairs as from a disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer
from s3fs import S3FileSystem

from perception_encoder.data import shard_index
from perception_encoder.errors import DataError
from tests.data.tars import write_pairs
from tests.data.test_streams import batches, caches, equal, load_all, streams

__all__ = ["caches"]


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3FileSystem]:
    """Two shards of ten pairs at s3://web, and in the folder `disk`, on a server of this machine."""
    monkeypatch.setattr(shard_index, "RETRY_PAUSES", (0.0, 0.0))
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    try:
        S3FileSystem.clear_instance_cache()
        files = S3FileSystem()
        files.mkdir("web")
        (tmp_path / "disk").mkdir()
        for shard in range(2):
            path = write_pairs(tmp_path / f"disk/{shard}.tar", range(10 * shard, 10 * shard + 10))
            files.put(str(path), f"web/{shard}.tar")
        yield files
        files.rm("web", recursive=True)
    finally:
        server.stop()
        S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize("place", ["s3://web/{0..1}.tar", "s3://web", "simplecache::s3://web/{0..1}.tar"])
def test_pairs_are_those_of_a_disk(bucket: S3FileSystem, tmp_path: Path, place: str) -> None:
    local, remote = batches(streams(tmp_path / "disk")), batches(streams(place), workers=2)
    assert all(equal(local(step), remote(step)) for step in range(6))  # almost two epochs


def test_a_shard_that_was_written_again_is_read_again_and_one_that_is_missing_is_named(
    bucket: S3FileSystem, tmp_path: Path
) -> None:
    assert len(streams("s3://web/0.tar")[0]) == 10
    bucket.put(str(write_pairs(tmp_path / "fewer.tar", range(4))), "web/0.tar")
    S3FileSystem.clear_instance_cache()  # a later run has seen nothing of the bucket
    [stream] = streams("s3://web/0.tar")
    assert len(load_all(stream)) == 4
    with pytest.raises(DataError, match=r"1 of 3 shards.*2\.tar: cannot be opened"):
        streams("s3://web/{0..2}.tar")
    with pytest.raises(DataError, match=r"s3://nowhere"):
        streams("s3://nowhere")
