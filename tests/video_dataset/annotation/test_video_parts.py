"""Parts of a video in a tar: what a `Range` header means, and that only those bytes are read."""

from __future__ import annotations

from pathlib import Path

import pytest

from perception_encoder.errors import InputError
from perception_encoder.formats.tars import TarMember
from perception_encoder.serving.http import ApiError
from perception_encoder.video_dataset.annotation.server import parse_range, read_pieces, send_video


@pytest.mark.parametrize(
    ("header", "part"),
    [
        (None, None),
        ("bytes=0-9", (0, 10)),
        ("bytes=90-", (90, 100)),
        ("bytes=90-1000", (90, 100)),
        ("bytes=-10", (90, 100)),
        ("bytes=-1000", (0, 100)),
        ("bytes=-", None),
        ("bytes=0-1,5-6", None),
        ("bytes=a-b", None),
        ("lines=0-9", None),
    ],
)
def test_ranges(header: str | None, part: tuple[int, int] | None) -> None:
    assert parse_range(header, 100) == part


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=5-4", "bytes=-0", "bytes=999999999999999999-"])
def test_bytes_beyond_the_video(header: str) -> None:
    with pytest.raises(ApiError, match="the video has 100 bytes") as error:
        parse_range(header, 100)
    assert error.value.status == 416


def test_a_part_is_read_in_pieces(tmp_path: Path) -> None:
    tar = tmp_path / "a.tar"
    content = bytes(range(256)) * 4000
    tar.write_bytes(b"before" + content + b"after")
    member = TarMember(tar, 6, len(content))
    pieces = list(read_pieces(member, 10, len(content)))
    assert b"".join(pieces) == content[10:] and len(pieces) > 1
    assert b"".join(read_pieces(member, 5, 6)) == content[5:6]


def test_headers(tmp_path: Path) -> None:
    member = TarMember(tmp_path / "a.tar", 0, 100)
    with pytest.raises(InputError, match="has gone"):
        send_video(member, "mp4", None)
    member.tar.write_bytes(b"x" * 100)
    whole, part = send_video(member, "mp4", None), send_video(member, "webm", "bytes=10-19")
    assert (whole.status_code, whole.headers["content-length"], whole.media_type) == (200, "100", "video/mp4")
    assert (part.status_code, part.headers["content-range"], part.media_type) == (206, "bytes 10-19/100", "video/webm")
