"""Send a video that lies in a tar, whole or the part that a player requests, without reading more than that."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from perception_encoder.errors import InputError
from perception_encoder.formats.tars import TarMember
from perception_encoder.serving.parsing import ApiError

if TYPE_CHECKING:
    from fastapi import Response

_PIECE = 1 << 18
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)
_TYPES = {"mp4": "video/mp4", "webm": "video/webm", "mov": "video/quicktime", "mkv": "video/x-matroska"}


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Return the first byte and the one after the last of a `Range` header, None for the whole.

    As HTTP wants it, a header of another form, such as several ranges, is ignored. ApiError 416 for bytes beyond.
    """
    match = _RANGE.fullmatch(header or "")
    if match is None or match[0] == "bytes=-":
        return None
    if not match[1]:
        start, end = max(0, size - int(match[2])), size
    else:
        start, end = int(match[1]), min(size, int(match[2]) + 1 if match[2] else size)
    if start >= end:
        raise ApiError(416, f"the video has {size:,} bytes")
    return start, end


def send_video(member: TarMember, extension: str, header: str | None) -> Response:
    """Make the answer: status 206 for a part, 200 for the whole. Raises ApiError 416, and InputError if the tar is
    gone."""
    from starlette.responses import StreamingResponse

    part = parse_range(header, member.size)
    start, end = part or (0, member.size)
    if not member.tar.is_file():
        raise InputError("the video's tar", "has gone")
    headers = {"Accept-Ranges": "bytes", "Content-Length": str(end - start), "Cache-Control": "private, max-age=3600"}
    if part is not None:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{member.size}"
    media_type = _TYPES.get(extension, "application/octet-stream")
    return StreamingResponse(read_pieces(member, start, end), 206 if part else 200, headers, media_type)


def read_pieces(member: TarMember, start: int, end: int) -> Iterator[bytes]:
    """Yield bytes `start` to `end` of a member, piece by piece."""
    with member.tar.open("rb") as stream:
        stream.seek(member.offset + start)
        rest = end - start
        while rest > 0 and (piece := stream.read(min(_PIECE, rest))):
            rest -= len(piece)
            yield piece
