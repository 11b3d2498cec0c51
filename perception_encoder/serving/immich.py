"""Answer the machine-learning requests of immich, which other photo servers send too: embeddings, and text in images.

With the extra `words`, text in images is read here. Faces are other models' work. A photo server that gets an error for
such a request asks its next address for embeddings as well, under the same name, and two models' vectors mix in its
database. So these requests are passed on to another server, unless they are said to be switched off.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx
from PIL import Image

from perception_encoder.errors import ConfigError, InputError
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.pipeline import Decoded
from perception_encoder.models.registry import immich_name
from perception_encoder.preprocess.image import upright_size
from perception_encoder.preprocess.media import Media, open_media, resolve
from perception_encoder.records import parse_json
from perception_encoder.serving.queues import Batcher
from perception_encoder.serving.requests import ApiConfig, MediaReader, check_model_name, for_role, input_refused
from perception_encoder.web_server.http import ApiError, BodyReader, shortened
from perception_encoder.words.reader import MIN_CONFIDENCE, TextLine, WordReader, can_read_words

if TYPE_CHECKING:
    from fastapi import FastAPI, Request, Response

UPSTREAM_SECONDS, UPSTREAM_BYTES = 120.0, 16 << 20  # of a whole answer
_CHARACTERS = 20_000  # of a text
_ENTRIES_BYTES = 64 << 10
_BOUNDARY = re.compile(r'multipart/form-data\s*;.*?\bboundary=(?:"([^"]+)"|([^\s;"]+))', re.IGNORECASE)
_FIELD = re.compile(rb';\s*name="?(entries|image|text)(?:["\s;]|$)', re.IGNORECASE)


@dataclass(frozen=True)
class Immich:
    """How a server answers a photo server."""

    alias: str
    """The name under which the photo server asks for the model."""
    upstream: str | None
    """Address of the server that answers other requests; None if there are none."""
    reads_words: bool = False
    """Whether it reads text in images itself."""

    @classmethod
    def of(cls, encoder: Encoder, upstream: str | None, clip_only: bool) -> Immich:
        """Return the answers of a model; ConfigError if its vectors fit no name, or nobody answers other requests."""
        if (upstream is None) != clip_only:
            raise ConfigError(
                "immich also asks for faces and for text in images (which the extra `words` answers); if it gets an "
                "error, it asks its next address for embeddings too, and two models' vectors mix in its database: give "
                "--immich-upstream URL, immich's own service, or --immich-clip-only, if these jobs are switched off"
            )
        if upstream is not None and not _is_address(upstream):
            raise ConfigError(f"--immich-upstream is {upstream!r}; give an address, such as http://localhost:3003")
        if not encoder.reads_texts:
            raise ConfigError(f"{encoder.name} reads no texts; immich needs a Core model")
        return cls(immich_name(encoder.name, encoder.dimension), upstream and upstream.rstrip("/"), can_read_words())


def add_immich_routes(app: FastAPI, encoder: Encoder, batcher: Batcher, config: ApiConfig, immich: Immich) -> None:
    """Add `/ping` and `/predict`, which take no key; fields that they do not know are ignored."""
    from fastapi.responses import JSONResponse, PlainTextResponse, Response

    reader = MediaReader(config)
    bodies = BodyReader(config.body_bytes, config.body_seconds, config.bodies_bytes)

    async def ping(request: Request) -> Response:
        return PlainTextResponse("pong")

    async def predict(request: Request) -> Response:
        form_type = request.headers.get("content-type", "")
        async with bodies.read(request, partial(_parse_request, form_type)) as (jobs, fields, body):
            name = next((name for name in answers if name in jobs), None)
            if name is None:
                if immich.upstream is None:
                    raise ApiError(
                        400,
                        f"only {' and '.join(answers)} is answered, not {shortened(', '.join(jobs))}: "
                        "see --immich-upstream",
                    )
                return Response(*await _ask(f"{immich.upstream}/predict", form_type, body))
            if len(jobs) > 1:  # the other server would embed it with its own model
                raise ApiError(422, f"entries has {name} with other jobs; send each in a request of its own")
            try:
                return JSONResponse(await answers[name](jobs[name], fields))
            except InputError as error:
                raise input_refused(error, "image") from None

    async def embed(job: Any, fields: dict[str, bytes]) -> dict[str, Any]:
        kind = next(iter(job), "") if isinstance(job, dict) and len(job) == 1 else ""
        field = {"visual": "image", "textual": "text"}.get(kind, "")
        name = job[kind].get("modelName") if field and isinstance(job[kind], dict) else None
        if not isinstance(name, str):
            raise ApiError(422, f"clip is {shortened(job)}; it must have either visual or textual, with a modelName")
        check_model_name(name, immich.alias, encoder.name, config.source)
        content = fields.get(field, b"")
        if not content:
            raise ApiError(400, f"the request has no {field}")
        size: dict[str, int] = {}
        with batcher.reserve(1) as hold:
            if field == "image":
                decoded = hold(await reader.decode(lambda: resolve(content, "image", kind="image"), batcher.decode))
                width, height = await asyncio.to_thread(upright_size, content, "image")
                size = {"imageHeight": height, "imageWidth": width}
            else:
                decoded = Decoded(text=_text(content))
            feature = for_role(encoder.feature(), None if size else "query", encoder)
            (vector,) = await batcher.encode([decoded], [feature])
        return {"clip": json.dumps(vector.tolist()), **size}

    answers: dict[str, Callable[..., Awaitable[Any]]] = {"clip": embed}
    if immich.reads_words:
        answers["ocr"] = partial(_read_words, reader, batcher, asyncio.Lock())
    app.router.add_route("/ping", ping, methods=["GET"])
    app.router.add_route("/predict", predict, methods=["POST"])


async def _read_words(
    reader: MediaReader, batcher: Batcher, reading: asyncio.Lock, job: Any, fields: dict[str, bytes]
) -> dict[str, Any]:
    """Answer `ocr`; one image at a time, so that the other threads decode for embeddings."""
    least, content = _least_score(job), fields.get("image", b"")
    if not content:
        raise ApiError(400, "the request has no image")
    with batcher.reserve(1):
        async with reading:
            lines, (width, height) = await reader.decode(lambda: resolve(content, "image", kind="image"), _lines)
    lines = [line for line in lines if line.confidence > least]
    scores = [line.confidence for line in lines]
    words = {"text": [line.text for line in lines], "box": [number for line in lines for number in line.box]}
    return {"ocr": {**words, "boxScore": scores, "textScore": scores}, "imageHeight": height, "imageWidth": width}


def _lines(media: Media) -> tuple[list[TextLine], tuple[int, int]]:
    image = open_media(media, served=True)
    assert isinstance(image, Image.Image)
    return WordReader.shared().read(image, media.name, 0.0), image.size


def _least_score(job: Any) -> float:
    """Return the score that lines of a job must exceed."""
    try:
        least = job["recognition"].get("options", {}).get("minScore", MIN_CONFIDENCE)
        return float(job["detection"] and least)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ApiError(422, f"ocr is {shortened(job)}; it must have detection and recognition") from None


def _is_address(text: str) -> bool:
    try:
        port = httpx.URL(text).port or 80
    except httpx.InvalidURL:
        return False
    return port < 1 << 16 and re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", text) is not None


def _parse_request(form_type: str, body: bytearray) -> tuple[dict[str, Any], dict[str, bytes], bytes]:
    """Return the jobs and the known fields of a request, with the body itself."""
    fields, content = _parse_form(form_type, body)
    return _parse_entries(fields.get("entries", b"")), fields, content


def _parse_form(form_type: str, body: bytearray) -> tuple[dict[str, bytes], bytes]:
    """Return the known fields of a multipart form, with the body itself."""
    content, fields = bytes(body), dict[str, bytes]()
    boundary = _BOUNDARY.match(form_type)
    delimiter = b"\r\n--" + (boundary[1] or boundary[2]).encode("latin-1") if boundary else b""
    start = content.find(delimiter[2:]) + len(delimiter) - 2
    while boundary and (end := content.find(delimiter, start)) >= 0:
        head = content.find(b"\r\n\r\n", start, end)
        if head >= 0 and (name := _FIELD.search(content[start:head])):
            fields[name[1].decode()] = content[head + 4 : end]
        start = end + len(delimiter)
    return fields, content


def _parse_entries(entries: bytes) -> dict[str, Any]:
    try:
        jobs = parse_json(entries, object) if len(entries) <= _ENTRIES_BYTES else None
    except ValueError:
        jobs = None
    if not isinstance(jobs, dict) or not jobs:
        limit = f"at most {_ENTRIES_BYTES:,} bytes"
        raise ApiError(422, f"entries must be a JSON object of jobs, of {limit}, in a multipart form")
    return jobs


def _text(content: bytes) -> str:
    if len(content) > _CHARACTERS:
        raise ApiError(413, f"the text has more than {_CHARACTERS:,} bytes, the limit")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise ApiError(400, "the text is not UTF-8") from None


async def _ask(address: str, form_type: str, body: bytes) -> tuple[bytes, int, dict[str, str]]:
    """Pass a request on; return the answer's content, status and headers."""
    headers = {b"Content-Type": form_type.encode("latin-1"), b"Accept-Encoding": b"identity"}
    content = bytearray()
    try:
        async with (
            asyncio.timeout(UPSTREAM_SECONDS) as limit,
            httpx.AsyncClient(timeout=None) as client,
            client.stream("POST", address, content=body, headers=headers) as answer,
        ):
            if (encoding := answer.headers.get("content-encoding", "identity")) != "identity":
                raise ApiError(502, f"the server for other jobs answers with content-encoding {encoding[:40]}")
            async for piece in answer.aiter_raw():
                if len(content) + len(piece) > UPSTREAM_BYTES:
                    raise ApiError(502, f"the server for other jobs answers with over {UPSTREAM_BYTES:,} bytes")
                content += piece
    except (httpx.HTTPError, OSError) as error:
        late = f"it took more than {UPSTREAM_SECONDS:g} s"
        reason = late if limit.expired() else f"{type(error).__name__}: {error}"[:200]
        raise ApiError(502, f"the server for other jobs does not answer: {reason}") from None
    kind = answer.headers.get("content-type")
    return bytes(content), answer.status_code, {"Content-Type": kind} if kind else {}
