"""The page over an indexed folder, served on this machine: the page itself, what it asks for, and the files."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from perception_encoder.errors import ConfigError, InputError, MissingExtraError, PerceptionEncoderError
from perception_encoder.search.query.asked import parse_asked
from perception_encoder.search.web.inside import Inside
from perception_encoder.search.web.library import Filter, Library, as_tiles
from perception_encoder.search.web.signed_ids import SignedIds
from perception_encoder.search.web.thumbnails import Thumbnails
from perception_encoder.serving.guard import HANG_UP, HOSTS, guard

if TYPE_CHECKING:
    from fastapi import FastAPI, Request, Response

_POLICY = "default-src 'none'; img-src 'self' data: blob:; media-src 'self'; style-src 'self'; script-src 'self'; "
_POLICY += "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_UPLOAD_BYTES = 64 << 20  # of an image or video to search by
_UPLOAD_SECONDS = 30.0  # in which it must have arrived
_COUNT, _MOST = 60, 200  # tiles of an answer
_SHOWN_FAILURES = 200
_THREADS = 8  # that answer; the model has one of its own
_THUMBNAIL_THREADS = 2  # that make large thumbnails, so that a screen full of them does not delay a search
_SCRIPTS = ("page", "address", "element", "features", "filters", "grid", "query", "tile", "viewer")
_TYPES = {"page.css": "text/css", **{f"{name}.js": "text/javascript" for name in _SCRIPTS}}
_LAYER = re.compile(r"-?\d{1,4}", re.ASCII)
_PLACE = re.compile(r"(0(?:\.\d{1,6})?|1),(0(?:\.\d{1,6})?|1)", re.ASCII)


def create_page(library: Library, hosts: tuple[str, ...] = HOSTS, note: str = "", key: str | None = None) -> FastAPI:
    """The server, under some names of this machine, with a note on the page; MissingExtraError without FastAPI.

    `key`: what every request needs if others can reach the server; see `guard`.
    """
    try:
        import fastapi
        import jinja2
        from fastapi.responses import HTMLResponse, JSONResponse, Response
    except ImportError as error:
        raise MissingExtraError(error.name or "fastapi", "search") from None
    app = fastapi.FastAPI(title="perception-encoder", docs_url=None, redoc_url=None, openapi_url=None)
    assets = files("perception_encoder.search.web") / "page"
    thumbnails, ids = Thumbnails(library), SignedIds()
    threads = ThreadPoolExecutor(_THREADS, "page")
    thumbnail_threads = ThreadPoolExecutor(_THUMBNAIL_THREADS, "thumbnails")
    template = jinja2.Environment(autoescape=True).from_string((assets / "page.html").read_text(encoding="utf-8"))

    def route(
        pool: ThreadPoolExecutor, path: str, answer: Callable[[Request], Any], methods: tuple[str, ...] = ("GET",)
    ) -> None:
        async def safely(request: Request) -> Any:
            try:
                if "id" in request.path_params:
                    request.path_params["id"] = ids.check(request.path_params["id"])
                return await asyncio.get_running_loop().run_in_executor(pool, answer, request)
            except PerceptionEncoderError as error:
                return JSONResponse({"error": str(error)}, 404 if isinstance(error, InputError) else 400)

        app.router.add_route(path, safely, methods=list(methods))

    def page(request: Request) -> Response:
        last = library.encoder.visual.config.depth - 1
        about = {"folder": library.index.root.resolve().name, "model": library.encoder.name, "last_layer": last}
        return HTMLResponse(template.render(about, note=note, upload_bytes=_UPLOAD_BYTES))

    def asset(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in _TYPES:
            return JSONResponse({"error": "no such file"}, 404)
        return Response((assets / name).read_bytes(), media_type=_TYPES[name])

    get, get_slowly = partial(route, threads), partial(route, thumbnail_threads)
    get("/", page)
    get("/static/{name}", asset)
    get("/api/rescan", lambda _: JSONResponse({"started": library.start_update()}, 202), ("POST",))
    add_search_routes(get, library, thumbnails, ids)
    add_file_routes(get, get_slowly, library, thumbnails, ids)
    add_inside_route(get, Inside(library))
    add_upload_route(app, library, threads)
    guard(app, _HEADERS, hosts, key)
    return app


def add_search_routes(
    get: Callable[[str, Callable[[Request], Any]], None], library: Library, thumbnails: Thumbnails, ids: SignedIds
) -> None:
    """`/api/hits`, what is found or newest, and `/api/status`, how far the index is."""
    from fastapi.responses import JSONResponse

    def hits(request: Request) -> Response:
        asked = dict(request.query_params)
        shown = Filter(**{name: asked.get(name, "") for name in ("kind", "since", "until", "path")})
        offset, count = _number(asked, "offset", 0, 100_000), _number(asked, "count", _COUNT, _MOST)
        if "q" in asked:
            terms = parse_asked("\n".join(request.query_params.getlist("q")))
            rows = library.find(list(map(ids.checked, terms)), shown, offset, count)
            about = {"terms": [vars(term) for term in terms], "total": library.count(shown)}
            doubt = library.low_confidence(terms, rows) if offset == 0 else None
            about |= {"more": len(rows) == count, "low_confidence": doubt}
            return JSONResponse({"tiles": ids.sign(thumbnails.tiles(rows)), **about})
        rows, total = library.newest(shown, offset, count)
        tiles = ids.sign(thumbnails.tiles(rows))
        return JSONResponse({"tiles": tiles, "more": offset + len(rows) < total, "total": total})

    def status(request: Request) -> Response:
        progress = library.progress
        failed = [{"name": error.source, "reason": error.reason} for error in progress.failures[:_SHOWN_FAILURES]]
        counts = {**vars(progress), "failures": len(progress.failures), "failed": failed}
        return JSONResponse({**counts, "version": library.refresh(), "rows": len(library.index)})

    get("/api/hits", hits)
    get("/api/status", status)


def add_file_routes(
    get: Callable[[str, Callable[[Request], Any]], None],
    get_slowly: Callable[[str, Callable[[Request], Any]], None],
    library: Library,
    thumbnails: Thumbnails,
    ids: SignedIds,
) -> None:
    """Of a row: its thumbnail, stored or large, what is around it, and its file, in parts if a player asks for them."""
    from fastapi.responses import FileResponse, JSONResponse, Response

    def thumbnail(request: Request) -> Response:
        row = thumbnails.row(request.path_params["id"], request.url.query)
        headers = {"Cache-Control": "private, max-age=3600", "ETag": f'"{row.digest}-{row.start}"'}
        return Response(row.thumbnail, media_type="image/jpeg", headers=headers)

    def large(request: Request) -> Response:
        jpeg = thumbnails.large(request.path_params["id"], request.url.query)
        return Response(jpeg, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})

    def around(request: Request) -> Response:
        return JSONResponse({"tiles": ids.sign(as_tiles(library.around(request.path_params["id"])))})

    def file(request: Request) -> Response:
        return FileResponse(library.file(request.path_params["id"]), content_disposition_type="inline")

    get("/api/around/{id}", around)
    get("/thumbnail/{id}", thumbnail)
    get_slowly("/thumbnail/{id}/large", large)
    get("/file/{id}", file)


def add_inside_route(get: Callable[[str, Callable[[Request], Any]], None], inside: Inside) -> None:
    """`/api/inside/ID`: a row's picture as the model is given it; with `layer=N` its features there as colours; with
    `at=X,Y` besides, a shade over what is unlike that place (0–1 from the left and from the top)."""
    from fastapi.responses import Response

    def look(request: Request) -> Response:
        id, asked = request.path_params["id"], request.query_params
        headers = {"Cache-Control": "private, max-age=300"}
        if "layer" not in asked:
            return Response(inside.picture(id), media_type="image/jpeg", headers=headers)
        layer = _checked(asked["layer"], _LAYER, "layer", "a number such as 5")
        if "at" not in asked:
            return Response(inside.colours(id, int(layer[0])), media_type="image/png", headers=headers)
        at = _checked(asked["at"], _PLACE, "at", "two numbers from 0 to 1 such as 0.25,0.5")
        shade = inside.likeness(id, int(layer[0]), float(at[1]), float(at[2]))
        return Response(shade, media_type="image/png", headers=headers)

    get("/api/inside/{id}", look)


def add_upload_route(app: FastAPI, library: Library, threads: ThreadPoolExecutor) -> None:
    """`POST /api/image`: an image or video to search by, as the request's body."""
    from fastapi.responses import JSONResponse
    from starlette.requests import ClientDisconnect

    async def upload(request: Request) -> Response:
        content = bytearray()
        try:
            async with asyncio.timeout(_UPLOAD_SECONDS):
                async for piece in request.stream():
                    content += piece
                    if len(content) > _UPLOAD_BYTES:
                        message = f"the file has more than {_UPLOAD_BYTES >> 20} MiB, the limit"
                        return JSONResponse({"error": message}, 413, HANG_UP)
        except TimeoutError:
            return JSONResponse({"error": f"the file took more than {_UPLOAD_SECONDS:g} s"}, 408, HANG_UP)
        except ClientDisconnect:
            return JSONResponse({"error": "the client has gone"}, 400)  # to nobody
        try:
            loop = asyncio.get_running_loop()
            return JSONResponse({"q": await loop.run_in_executor(threads, library.add_image, bytes(content))})
        except PerceptionEncoderError as error:
            return JSONResponse({"error": str(error)}, 400)

    app.router.add_route("/api/image", upload, methods=["POST"])


def _checked(value: str, pattern: re.Pattern[str], name: str, wanted: str) -> re.Match[str]:
    match = pattern.fullmatch(value)
    if match is None:
        raise ConfigError(f"{name} is {value!r}; it must be {wanted}")
    return match


def _number(asked: dict[str, str], name: str, default: int, most: int) -> int:
    value = asked.get(name, "")
    return min(int(value), most) if value.isdecimal() and len(value) < 10 else default
