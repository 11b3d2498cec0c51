"""Serve the page of an indexed directory: the page, its API and the files."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perception_encoder.errors import ConfigError, InputError, PerceptionEncoderError, detached
from perception_encoder.files import file_state
from perception_encoder.inference.media import Media, open_media
from perception_encoder.models.registry import demo_note
from perception_encoder.preprocess.budget import DECODING
from perception_encoder.preprocess.frames import VideoFrames
from perception_encoder.preprocess.image import encode_thumbnail, open_image
from perception_encoder.search.storage.rows import IndexRow
from perception_encoder.search.terms import Term, UploadedImage, parse_lines
from perception_encoder.search.web.features import FeatureImages, add_feature_route
from perception_encoder.search.web.library import Filter, MediaLibrary, as_tiles
from perception_encoder.search.web.questions import add_ask_route
from perception_encoder.search.web.responses import Get, SignedIds
from perception_encoder.serving.queues import GenerationQueue
from perception_encoder.web_server.http import ApiError, BodyReader
from perception_encoder.web_server.server import HOSTS, create_page_app

if TYPE_CHECKING:
    from fastapi import FastAPI, Request, Response

_UPLOAD_BYTES = 64 << 20  # of an image or video to search by
_UPLOAD_SECONDS = 30.0  # for an upload
_COUNT, _MAXIMUM_COUNT = 60, 200  # tiles of an answer
_SHOWN_FAILURES = 200
_THREADS = 8  # for requests; the model has its own
_THUMBNAIL_THREADS = 2  # for large thumbnails, so that a screen full of them does not delay a search
_CACHED_THUMBNAILS = 2048  # stored thumbnails, about 20 MiB
LARGE_SIDE, FULL_SIDE = 640, 2048
"""Longest side of a large thumbnail, in pixels: enough for a tile on a high-density screen, and to fill one."""
_CACHED_LARGE, _CACHED_FULL = 256, 16  # about 15 and 8 MiB


def create_page(
    library: MediaLibrary,
    hosts: tuple[str, ...] = HOSTS,
    note: str = "",
    key: str | None = None,
    ask: GenerationQueue | None = None,
    features_model: str = "",
    secret: bytes | None = None,
) -> FastAPI:
    """Create the server for some host names of this machine; `note` is shown on the page. Raises MissingExtraError.

    `key`: see `guard`. `ask`: answers questions. `features_model`: the second one of
    `FeatureImages`. `secret`: see `SignedIds`.
    """

    def values() -> dict[str, Any]:
        name, second = library.encoder.name, Path(features_model).stem
        return {
            "directory": library.index.root.resolve().name,
            "model": name,
            "last_layer": max(0, library.encoder.depth - 1),
            "ask_model": ask.name if ask else "",
            "features_model": second,
            "demo": demo_note(name),
            "features_demo": demo_note(second),
            "ask_demo": demo_note(ask.name) if ask else "",
            "note": note,
            "upload_bytes": _UPLOAD_BYTES,
        }

    app = create_page_app(files("perception_encoder.search.web") / "page", values, hosts, key)
    from fastapi.responses import JSONResponse

    thumbnails, ids = Thumbnails(library), SignedIds(secret)
    threads, slow = ThreadPoolExecutor(_THREADS, "page"), ThreadPoolExecutor(_THUMBNAIL_THREADS, "thumbnails")

    def route(
        pool: ThreadPoolExecutor, path: str, answer: Callable[[Request], Any], methods: tuple[str, ...] = ("GET",)
    ) -> None:
        async def respond(request: Request) -> Any:
            if "id" in request.path_params:
                request.path_params["id"] = ids.check(request.path_params["id"])
            return await asyncio.get_running_loop().run_in_executor(pool, answer, request)

        app.router.add_route(path, respond, methods=list(methods))

    get, get_slowly = partial(route, threads), partial(route, slow)
    get("/api/rescan", lambda _: JSONResponse({"started": library.start_update()}, 202), ("POST",))
    add_search_routes(get, library, thumbnails, ids)
    add_file_routes(get, get_slowly, library, thumbnails, ids)
    add_feature_route(get, FeatureImages(library, baseline=features_model))
    add_upload_route(app, library, threads)
    add_ask_route(app, library, ids, ask)
    return app


def add_search_routes(get: Get, library: MediaLibrary, thumbnails: Thumbnails, ids: SignedIds) -> None:
    """Add `/api/hits`, the hits of a query or the newest rows, and `/api/status`, the state of the index."""
    from fastapi.responses import JSONResponse

    def find_source(kind: str, source_id: str) -> IndexRow | UploadedImage:
        return library.term_source(kind, ids.check(source_id) if kind == "like" else source_id)

    def hits(request: Request) -> Response:
        params = dict(request.query_params)
        limits = Filter(**{name: params.get(name, "") for name in ("kind", "since", "until", "path")})
        offset, count = _number(params, "offset", 0, 100_000), _number(params, "count", _COUNT, _MAXIMUM_COUNT)
        if "q" in params:
            query = parse_lines(request.query_params.getlist("q"), find_source)
            min_score = _score(params.get("min_score", ""))
            rows = library.find(query, limits, offset, count, min_score)
            answer: dict[str, Any] = {"terms": [_as_json(term, ids) for term in query.terms]}
            answer["total"] = library.count(limits) if min_score is None else None  # unknown
            answer["more"] = len(rows) == count
        else:
            rows, total = library.newest(limits, offset, count)
            answer = {"total": total, "more": offset + len(rows) < total}
        return JSONResponse({"tiles": ids.sign(thumbnails.tiles(rows)), **answer})

    def status(request: Request) -> Response:
        progress = library.progress
        failed = [{"name": error.source, "reason": error.reason} for error in progress.failures[:_SHOWN_FAILURES]]
        counts = {**vars(progress), "failures": len(progress.failures), "failed": failed}
        return JSONResponse({**counts, "version": library.refresh(), "rows": len(library.index)})

    get("/api/hits", hits)
    get("/api/status", status)


def add_file_routes(get: Get, get_slowly: Get, library: MediaLibrary, thumbnails: Thumbnails, ids: SignedIds) -> None:
    """Add a row's thumbnails in three sizes, its neighbours, and its file, in parts if a player requests them."""
    from fastapi.responses import FileResponse, JSONResponse, Response

    def thumbnail(request: Request) -> Response:
        row = thumbnails.row(request.path_params["id"], request.url.query)
        headers = {"Cache-Control": "private, max-age=3600", "ETag": f'"{row.digest}-{row.start}"'}
        return Response(row.thumbnail, media_type="image/jpeg", headers=headers)

    def large(request: Request, side: int = LARGE_SIDE) -> Response:
        jpeg = thumbnails.large(request.path_params["id"], request.url.query, side)
        return Response(jpeg, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})

    def around(request: Request) -> Response:
        return JSONResponse({"tiles": ids.sign(as_tiles(library.around(request.path_params["id"])))})

    def file(request: Request) -> Response:
        return FileResponse(library.file(request.path_params["id"]), content_disposition_type="inline")

    get("/api/around/{id}", around)
    get("/thumbnail/{id}", thumbnail)
    get_slowly("/thumbnail/{id}/large", large)
    get_slowly("/thumbnail/{id}/full", partial(large, side=FULL_SIDE))  # of what the browser cannot show, such as RAW
    get("/file/{id}", file)


def add_upload_route(app: FastAPI, library: MediaLibrary, threads: ThreadPoolExecutor) -> None:
    """Add `POST /api/image`: an image or video to search by, as the request's body."""
    from fastapi.responses import JSONResponse

    bodies = BodyReader(_UPLOAD_BYTES, _UPLOAD_SECONDS)

    async def upload(request: Request) -> Response:
        try:
            async with bodies.read(request, bytes) as content:
                line = await asyncio.get_running_loop().run_in_executor(threads, library.add_image, content)
        except InputError as error:
            raise ApiError(400, str(detached(error))) from None
        return JSONResponse({"q": line})

    app.router.add_route("/api/image", upload, methods=["POST"])


def _as_json(term: Term, ids: SignedIds) -> dict[str, Any]:
    """Return a term as JSON: its weight, "text", "like" or "image", and the text or id."""
    source = term.source
    if isinstance(source, Media):
        return {"weight": term.weight, "kind": "text", "what": source.payload}
    if isinstance(source, IndexRow):
        return {"weight": term.weight, "kind": "like", "what": ids.signed(source.id)}
    return {"weight": term.weight, "kind": "image", "what": source.id}


def _number(params: dict[str, str], name: str, default: int, maximum: int) -> int:
    value = params.get(name, "")
    return min(int(value), maximum) if value.isdecimal() and len(value) < 10 else default


def _score(text: str) -> float | None:
    """Return a minimum score, None if the field is empty; ConfigError if it is not a number."""
    try:
        return float(text) if text else None
    except ValueError:
        raise ConfigError(f"the minimum score is {text[:60]!r}; it must be a number from -1 to 1") from None


class Thumbnails:
    """Caches rows with thumbnails for the addresses in `as_tiles`; threads may share one.

    Reading one thumbnail from the index takes as long as reading those of a whole answer.
    """

    def __init__(self, library: MediaLibrary) -> None:
        self._library, self._index, self._lock = library, library.index, threading.Lock()
        self._rows: dict[tuple[str, str], IndexRow] = {}  # by id and the address's query string; the oldest first
        self._large = lru_cache(_CACHED_LARGE)(partial(self._make_large, side=LARGE_SIDE))
        self._full = lru_cache(_CACHED_FULL)(partial(self._make_large, side=FULL_SIDE))

    def tiles(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return `as_tiles` of rows, after reading the thumbnails that are not cached yet."""
        tiles = as_tiles(rows)
        missing = {key[0]: key for tile in tiles if (key := _key(tile)) not in self._rows}
        if missing:
            fresh = self._index.rows_with("id", missing)
            with self._lock:
                self._rows |= {key: row for row in fresh if (key := _key(as_tiles([vars(row)])[0])) == missing[row.id]}
                for oldest in list(self._rows)[:-_CACHED_THUMBNAILS]:
                    del self._rows[oldest]
        return tiles

    def row(self, row_id: str, version: str) -> IndexRow:
        """Return the row with an id; `version` is its address's query string.

        SearchIndexError if it is missing, ConfigError if its file is a link out of the directory.
        """
        row = self._rows.get((row_id, version)) or self._index.row(row_id)
        self._library.check_inside(row)
        return row

    def large(self, row_id: str, version: str, side: int = LARGE_SIDE) -> bytes:
        """Return a large thumbnail, or the stored one if the file cannot be opened; arguments and errors as `row`."""
        try:
            make = self._full if side == FULL_SIDE else self._large
            return make(row_id, file_state(self._library.file(row_id)))
        except PerceptionEncoderError:
            return self.row(row_id, version).thumbnail

    def _make_large(self, row_id: str, state: str, side: int) -> bytes:
        """Make a large thumbnail; the cache's key includes the file's state."""
        media, path = self._library.media(row_id)
        with DECODING.admission() as admit:
            if media.kind == "image":
                image = open_image(path, media.name, reduce_to=partial(_needed_side, side), admit=admit)
            else:
                frames = open_media(media, admit=admit)
                assert isinstance(frames, VideoFrames)
                image = frames.images[0]
            return encode_thumbnail(image, side)


def _needed_side(side: int, width: int, height: int) -> int:
    """Return the minimum short side at which to decode a JPEG for a thumbnail with this longest side."""
    return max(1, side * min(width, height) // max(width, height))


def _key(tile: dict[str, Any]) -> tuple[str, str]:
    return tile["id"], tile["thumbnail"].partition("?")[2]
