"""Serve the annotation page: the page, its API and the videos."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from perception_encoder.errors import InputError
from perception_encoder.formats.tars import TarMember
from perception_encoder.progress import Track, untracked
from perception_encoder.video_dataset.annotation.progress import count_progress
from perception_encoder.video_dataset.annotation.project import AnnotationProject
from perception_encoder.video_dataset.annotation.work import (
    AnnotationTask,
    Edit,
    approve,
    next_review,
    next_task,
    return_to_annotator,
    save,
    skip,
    submit,
    undo,
    undo_review,
)
from perception_encoder.web_server.http import REQUEST, ApiError, BodyReader, parse_body
from perception_encoder.web_server.server import HOSTS, create_page_app

if TYPE_CHECKING:
    from fastapi import FastAPI, Request, Response

_BODY_BYTES, _BODY_SECONDS, _THREADS = 1 << 20, 10.0, 8
_PIECE = 1 << 18
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)
_VIDEO_TYPES = {"mp4": "video/mp4", "webm": "video/webm", "mov": "video/quicktime", "mkv": "video/x-matroska"}


@dataclass(frozen=True, kw_only=True)
class WorkRequest(Edit):
    """The JSON body of every change: the edit, the person, and what it is of."""

    __pydantic_config__: ClassVar = REQUEST
    caption: str = ""
    session: str
    person: str
    id: int = 0
    """Id of the annotation."""
    note: str = ""
    """The reason for skipping a video or returning it to its annotator."""


Action = Callable[[AnnotationProject, WorkRequest], AnnotationTask | None]
ACTIONS: dict[str, Action] = {
    "annotate/next": lambda project, r: next_task(project, r.person, r.session),
    "annotate/save": lambda project, r: save(project, r.person, r.id, r),
    "annotate/submit": lambda project, r: submit(project, r.person, r.id, r),
    "annotate/skip": lambda project, r: skip(project, r.person, r.id, r.note, r),
    "annotate/undo": lambda project, r: undo(project, r.person, r.session),
    "review/next": lambda project, r: next_review(project, r.person, r.session),
    "review/save": lambda project, r: save(project, r.person, r.id, r, "reviews"),
    "review/submit": lambda project, r: approve(project, r.person, r.id, r),
    "review/return": lambda project, r: return_to_annotator(project, r.person, r.id, r.note, r.session),
    "review/undo": lambda project, r: undo_review(project, r.person, r.session),
}
"""Handlers of `POST /api/NAME`; `next` and `undo` return a task or null."""


def serve_annotations(
    data: str | Path,
    store: str | Path | None = None,
    *,
    double: float | None = None,
    lan: bool = False,
    host: str | None = None,
    port: int = 8010,
    key: str | None = None,
    progress: Track = untracked,
    on_start: Callable[[int, str], object] = lambda videos, address: None,
) -> None:
    """Serve the page on which people refine captions until the process is stopped, like `pe annotate`.

    Args:
        data: The dataset, or a directory of `run_engine`.
        store: The file of the annotations; by default in `data`.
        double: Share of the videos that two people annotate; by default what it was.
        lan, host, port, key: See `pe.serve_search`.
        on_start: Called with the number of videos and the address once the server listens.

    Raises:
        ConfigError: The port is taken, or `double` is not between 0 and 1.
        DataError: There are no videos.
        MissingExtraError: The extra `search` is not installed.

    Examples:
        >>> pe.serve_annotations("clips", on_start=lambda videos, address: print(address))
    """
    from perception_encoder.web_server.server import listening, run_server

    with listening(host, port, lan, key) as place:
        project = AnnotationProject(Path(data), None if store is None else Path(store))
        count = project.update(progress)
        if double is not None:
            project.set_double(double)
        on_start(count, place.address())
        run_server(create_annotation_page(project, place.hosts, place.key), place.listener)
        project.close()


def create_annotation_page(
    project: AnnotationProject, hosts: tuple[str, ...] = HOSTS, key: str | None = None
) -> FastAPI:
    """Create the server of a project for some host names; `key`: see `guard`. Raises MissingExtraError."""
    assets = files("perception_encoder.video_dataset.annotation") / "page"
    app = create_page_app(assets, lambda: {"dataset": project.data.resolve().name}, hosts, key)
    from fastapi.responses import JSONResponse

    threads, bodies = ThreadPoolExecutor(_THREADS, "annotation"), BodyReader(_BODY_BYTES, _BODY_SECONDS)

    async def in_thread(call: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(threads, call, *arguments)

    async def video(request: Request) -> Response:
        member, extension = await in_thread(project.video, request.path_params["id"])
        return send_video(member, extension, request.headers.get("range"))

    async def progress(request: Request) -> Response:
        return JSONResponse((await in_thread(count_progress, project)).to_dict())

    async def work(request: Request) -> Response:
        name = f"{request.path_params['mode']}/{request.path_params['action']}"
        if name not in ACTIONS:
            raise ApiError(404, "no such action")
        async with bodies.read(request, partial(parse_body, kind=WorkRequest)) as content:
            task = await in_thread(ACTIONS[name], project, content)
        return JSONResponse({"task": task and asdict(task)})

    app.router.add_route("/video/{id:int}", video)
    app.router.add_route("/api/progress", progress)
    app.router.add_route("/api/{mode}/{action}", work, methods=["POST"])
    return app


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Return the first byte of a `Range` header and the byte after the last; None for the whole file.

    As in HTTP, a header of another form, such as several ranges, is ignored. ApiError 416 for bytes beyond the end.
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
    """Return the response: status 206 for a part, 200 for the whole. ApiError 416; InputError if the tar is gone."""
    from starlette.responses import StreamingResponse

    part = parse_range(header, member.size)
    start, end = part or (0, member.size)
    if not member.tar.is_file():
        raise InputError("the video's tar", "was removed")
    headers = {"Accept-Ranges": "bytes", "Content-Length": str(end - start), "Cache-Control": "private, max-age=3600"}
    if part is not None:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{member.size}"
    media_type = _VIDEO_TYPES.get(extension, "application/octet-stream")

    def pieces() -> Iterator[bytes]:
        with member.tar.open("rb") as stream:
            stream.seek(member.offset + start)
            rest = end - start
            while rest > 0 and (piece := stream.read(min(_PIECE, rest))):
                rest -= len(piece)
                yield piece

    return StreamingResponse(pieces(), 206 if part else 200, headers, media_type)
