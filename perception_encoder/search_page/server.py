"""Serve the page of an indexed directory: the page, its API and the files."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perception_encoder.errors import ConfigError, InputError, PerceptionEncoderError, detached
from perception_encoder.files import file_state
from perception_encoder.models.registry import demo_note
from perception_encoder.preprocess.budget import DECODING
from perception_encoder.preprocess.frames import VideoFrames
from perception_encoder.preprocess.image import encode_thumbnail, open_image
from perception_encoder.preprocess.media import Media, open_media
from perception_encoder.search.storage.database import IndexRow
from perception_encoder.search.terms import Query, Term, UploadedImage, parse_lines
from perception_encoder.search_page.features import FeatureImages, Get, add_feature_route
from perception_encoder.search_page.library import MediaLibrary, SignedIds, as_tile, condition
from perception_encoder.search_page.questions import add_ask_route
from perception_encoder.serving.queues import GenerationQueue
from perception_encoder.web_server.http import ApiError, BodyReader
from perception_encoder.web_server.server import HOSTS, create_page_app

if TYPE_CHECKING:
    from fastapi import FastAPI, Request, Response

_UPLOAD_BYTES = 64 << 20  # of an image or video to search by
_UPLOAD_SECONDS = 30.0  # for an upload
_COUNT, _MAXIMUM_COUNT = 60, 200  # tiles of an answer
_SHOWN_FAILURES = 200
_AROUND = 6  # images before and after one
_THREADS = 8  # for requests; the model has its own
_THUMBNAIL_THREADS = 2  # for large thumbnails, so that a screen full of them does not delay a search
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
    """Create the server for some host names of this machine. Raises MissingExtraError.

    Args:
        note: Shown on the page.
        key, secret: See `guard` and `SignedIds`.
        ask: Answers questions.
        features_model: The second one of `FeatureImages`.
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

    app = create_page_app(files("perception_encoder.search_page") / "page", values, hosts, key)
    from fastapi.responses import JSONResponse

    ids = SignedIds(secret)
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
    add_search_routes(get, library, ids)
    add_file_routes(get, get_slowly, library, ids)
    add_feature_route(get, FeatureImages(library, baseline=features_model))
    add_upload_route(app, library, threads)
    add_ask_route(app, library, ids, ask)
    return app


def add_search_routes(get: Get, library: MediaLibrary, ids: SignedIds) -> None:
    """Add `/api/hits`, the hits of a query or the newest rows, and `/api/status`, the state of the index."""
    from fastapi.responses import JSONResponse

    def hits(request: Request) -> Response:
        params = dict(request.query_params)
        where = condition(**{name: params.get(name, "") for name in ("kind", "since", "until", "path")})
        offset, count = _number(params, "offset", 0, 100_000), _number(params, "count", _COUNT, _MAXIMUM_COUNT)
        if "q" in params:
            query = _parse(request, library, ids)
            min_score = _score(params.get("min_score", ""))
            similar, has_text = params.get("similar", ""), any(isinstance(term.source, Media) for term in query.terms)
            if similar not in ("", "all"):
                raise ConfigError(f"similar is {similar[:60]!r}; it must be 'all' or left out")
            collapse = has_text and not similar  # without a text, the user looks for similar ones
            searched = query.searched(params.get("by", ""))
            found = library.find(searched, where, offset + count, min_score, collapse)[offset:]
            tiles = [
                {**as_tile(hit.row, ids.signed(hit.id)), "score": hit.score, "similar": hit.similar, "why": hit.why}
                for hit in found
                if hit.row
            ]
            answer: dict[str, Any] = {"terms": [_as_json(term, ids) for term in query.terms]}
            answer["only_words"] = bool(searched.words and searched.words.only)
            is_known = min_score is None and not answer["only_words"]
            answer["total"] = library.index.count(where) if is_known else None
            answer["more"] = len(tiles) == count
        else:
            total = library.index.count(where)
            rows = library.index.rows(where, part=slice(offset, offset + count))
            tiles = [as_tile(row, ids.signed(row.id)) for row in rows]
            answer = {"total": total, "more": offset + len(rows) < total}
        return JSONResponse({"tiles": tiles, **answer})

    def status(request: Request) -> Response:
        progress = library.progress
        failed = [{"name": error.source, "reason": error.reason} for error in progress.failures[:_SHOWN_FAILURES]]
        counts = {**vars(progress), "failures": len(progress.failures), "failed": failed}
        return JSONResponse({**counts, "version": library.index.refresh(), "rows": len(library.index)})

    get("/api/hits", hits)
    get("/api/status", status)


def add_file_routes(get: Get, get_slowly: Get, library: MediaLibrary, ids: SignedIds) -> None:
    """Add a row's thumbnails in three sizes, its neighbours, and its file, in parts if a player requests them."""
    from fastapi.responses import FileResponse, JSONResponse, Response

    def jpeg(content: bytes) -> Response:
        return Response(content, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})

    def thumbnail(request: Request) -> Response:
        row = library.index.row(request.path_params["id"])
        library.check_inside(row)
        return jpeg(row.thumbnail)

    def larger(side: int, cached: int) -> Callable[[Request], Response]:
        make = lru_cache(cached)(partial(_make_thumbnail, library, side=side))

        def answer(request: Request) -> Response:
            row_id = request.path_params["id"]
            try:
                return jpeg(make(row_id, file_state(library.file(row_id))))
            except PerceptionEncoderError:  # the file cannot be opened
                return thumbnail(request)

        return answer

    def around(request: Request) -> Response:
        rows = library.index.around(request.path_params["id"], _AROUND)
        return JSONResponse({"tiles": [as_tile(row, ids.signed(row.id)) for row in rows]})

    def words(request: Request) -> Response:
        query = _parse(request, library, ids).searched(request.query_params.get("by", ""))
        found = library.words(request.path_params["id"], query)
        return JSONResponse({"lines": [{**line.to_dict(), "found": is_found} for line, is_found in found]})

    def file(request: Request) -> Response:
        return FileResponse(library.file(request.path_params["id"]), content_disposition_type="inline")

    get("/api/around/{id}", around)
    get("/api/words/{id}", words)
    get("/thumbnail/{id}", thumbnail)
    get_slowly("/thumbnail/{id}/large", larger(LARGE_SIDE, _CACHED_LARGE))
    get_slowly("/thumbnail/{id}/full", larger(FULL_SIDE, _CACHED_FULL))  # what the browser cannot show, such as RAW
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


def _parse(request: Request, library: MediaLibrary, ids: SignedIds) -> Query:
    """Return the query of a request's parameters `q`; raises what `parse_lines` and `term_source` do."""

    def find_source(kind: str, source_id: str) -> IndexRow | UploadedImage:
        return library.term_source(kind, ids.check(source_id) if kind == "like" else source_id)

    return parse_lines(request.query_params.getlist("q"), find_source)


def _as_json(term: Term, ids: SignedIds) -> dict[str, Any]:
    """Return a term as JSON: its weight, "text", "like" or "image", and the text or id."""
    source = term.source
    if isinstance(source, Media):
        return {"weight": term.weight, "kind": "text", "what": term.typed}
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


def _make_thumbnail(library: MediaLibrary, row_id: str, state: str, side: int) -> bytes:
    """Make a row's thumbnail from its file, whose `state` is for a cache's key."""
    media, path = library.media(row_id)
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
