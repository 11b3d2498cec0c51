"""An embedding server that speaks the two dialects in use: OpenAI's, as infinity extends it, and vLLM's.

`POST /v1/embeddings` takes `input` (texts or, with `modality`, addresses and data URIs of pictures or videos), or
`messages` whose one part is a `text`, an `image_url` or a `video_url`. Nothing that a client sends is ever a path here;
addresses are fetched under `fetch.FetchLimits`.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from perception_encoder.errors import InputError, MediaTooLargeError, MissingExtraError, PerceptionEncoderError
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.fetch import FetchLimits, fetch, is_url
from perception_encoder.inference.media import Kind, Media, resolve
from perception_encoder.preprocess.source import escape_name
from perception_encoder.search.batching import Batcher, QueueFullError
from perception_encoder.search.guard import HANG_UP, HOSTS, guard
from perception_encoder.search.metrics import ApiMetrics

if TYPE_CHECKING:
    from fastapi import FastAPI, Request, Response


@dataclass(frozen=True, kw_only=True)
class ApiConfig:
    """What the server accepts."""

    key: str | None = None
    """What clients must send as `Authorization: Bearer KEY`; None asks for nothing."""
    body_bytes: int = 32 << 20
    """Of one request."""
    body_seconds: float = 30.0
    """In which a request must have arrived."""
    inputs: int = 256
    """Of one request."""
    files: int = 32
    """Pictures and videos of one request."""
    characters: int = 20_000
    """Of one text."""
    waiting: int = 1024
    """Inputs of all requests that may wait; beyond it the answer is 429."""
    fetch: FetchLimits = field(default_factory=lambda: FetchLimits(max_bytes=32 << 20, seconds=20.0))


_HEADERS = {408: HANG_UP, 413: HANG_UP, 429: {"Retry-After": "1"}}


class ApiError(Exception):
    """A request that cannot be answered, in OpenAI's form."""

    def __init__(self, status: int, message: str, parameter: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.parameter = status, message, parameter

    def body(self) -> dict[str, Any]:
        """The answer's JSON."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": self.message, "type": kind, "param": self.parameter, "code": self.status}}


@dataclass(frozen=True, kw_only=True)
class EmbeddingRequest:
    """A request, checked."""

    inputs: list[tuple[Kind, str]]
    """What each is, and the text, address or data URI."""
    encoding: Literal["float", "base64"]
    dimensions: int


def parse_request(body: Any, encoder: Encoder, config: ApiConfig) -> EmbeddingRequest:
    """Check a request's JSON; ApiError where it is not what the two dialects say."""
    if not isinstance(body, dict):
        raise ApiError(400, "the body must be a JSON object")
    encoding = body.get("encoding_format", "float")
    if encoding not in ("float", "base64"):
        raise ApiError(400, f"encoding_format is {encoding!r}; it must be 'float' or 'base64'", "encoding_format")
    dimensions = body.get("dimensions") or encoder.dimension
    if not isinstance(dimensions, int) or not 1 <= dimensions <= encoder.dimension:
        raise ApiError(400, f"dimensions is {dimensions!r}; it must be 1 to {encoder.dimension}", "dimensions")
    if "messages" in body:
        inputs = [_part_of(body["messages"])]
    else:
        inputs = _inputs_of(body)
    if not 1 <= len(inputs) <= config.inputs:
        raise ApiError(400, f"{len(inputs)} inputs; a request takes 1 to {config.inputs}", "input")
    if any(not value.strip() for _, value in inputs):
        raise ApiError(400, "an input is empty", "input")
    kinds = {kind for kind, _ in inputs}
    if kinds != {"text"} and len(inputs) > config.files:
        raise ApiError(400, f"{len(inputs)} pictures or videos; a request takes at most {config.files}", "input")
    if "text" in kinds and encoder.tokenizer is None:
        raise ApiError(400, f"{encoder.name} has no text tower; it takes pictures and videos", "input")
    if any(kind == "text" and len(value) > config.characters for kind, value in inputs):
        raise ApiError(400, f"a text has more than {config.characters:,} characters, the limit", "input")
    return EmbeddingRequest(inputs=inputs, encoding=encoding, dimensions=dimensions)


def _inputs_of(body: dict[str, Any]) -> list[tuple[Kind, str]]:
    kind = body.get("modality", "text")
    if kind not in ("text", "image", "video"):
        raise ApiError(400, f"modality is {kind!r}; it must be 'text', 'image' or 'video'", "modality")
    given = body.get("input")
    values = [given] if isinstance(given, str) else given
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ApiError(400, "input must be a string or a list of strings", "input")
    return [(kind, value) for value in values]


def _part_of(messages: Any) -> tuple[Kind, str]:
    try:
        parts: list[dict[str, Any]] = []
        for message in messages:
            if message.get("role", "user") == "user":
                content = message["content"]
                parts += [{"type": "text", "text": content}] if isinstance(content, str) else content
        (part,) = (part for part in parts if part["type"] != "text" or part["text"].strip())
        if part["type"] == "text":
            return "text", str(part["text"])
        kinds: dict[str, Kind] = {"image_url": "image", "video_url": "video"}
        return kinds[part["type"]], str(part[part["type"]]["url"])
    except (TypeError, KeyError, AttributeError, ValueError):
        wanted = "messages must hold one part: a text, an image_url {url} or a video_url {url}"
        raise ApiError(400, wanted, "messages") from None


def read_input(kind: Kind, value: str, limits: FetchLimits) -> Media:
    """A text as it is; of a picture or video the bytes, fetched or out of its data URI. Raises InputError."""
    if kind == "text":
        return Media("text", value, value)
    if value.startswith("data:"):
        head, comma, data = value.partition(",")
        name = f"{head[:60]},…"
        if not comma or not head.endswith(";base64"):
            raise InputError(name, "is no base64 data URI")
        try:
            return resolve(base64.b64decode(data, validate=True), name, kind=kind)
        except binascii.Error:
            raise InputError(name, "is no valid base64") from None
    if not is_url(value) or not value.startswith(("http://", "https://")):
        raise InputError(value[:60], "is neither an http(s) address nor a data URI")
    return resolve(fetch(value, limits), escape_name(value), kind=kind)  # bytes: never a path, whatever it looks like


def answer(vectors: np.ndarray, request: EmbeddingRequest, model: str, tokens: int) -> dict[str, Any]:
    """The JSON of vectors (n, D), cut to the dimensions asked for and made unit length again."""
    cut = vectors[:, : request.dimensions]
    cut = (cut / np.maximum(np.linalg.norm(cut, axis=1, keepdims=True), 1e-12)).astype("<f4")
    shown = [base64.b64encode(v.tobytes()).decode() if request.encoding == "base64" else v.tolist() for v in cut]
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(shown)]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": model, "usage": usage}


def create_app(encoder: Encoder, config: ApiConfig, hosts: tuple[str, ...] = HOSTS) -> FastAPI:
    """The server; without a key it answers under some names of this machine only.

    MissingExtraError without FastAPI or prometheus-client.
    """
    try:
        import fastapi
        from fastapi.responses import JSONResponse
    except ImportError as error:
        raise MissingExtraError(error.name or "fastapi", "search") from None

    metrics = ApiMetrics()
    batcher = Batcher(encoder, limit=config.waiting, watch=metrics.batch_sizes.observe)
    metrics.waiting.set_function(lambda: batcher.reserved)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        worker = asyncio.create_task(batcher.run())
        yield
        worker.cancel()

    app = fastapi.FastAPI(title="perception-encoder", lifespan=lifespan, docs_url=None, redoc_url=None)
    if config.key is None:
        guard(app, hosts=hosts)

    async def embeddings(request: Request) -> Response:
        started, status = time.perf_counter(), 500
        try:
            check_key(request.headers.get("authorization", ""), config.key)
            asked = parse_request(await read_json(request, config), encoder, config)
            found = await embed(asked, batcher, config)
            status = 200
            tokens = await asyncio.to_thread(count_tokens, encoder, asked.inputs)
            return JSONResponse(answer(found, asked, encoder.name, tokens))
        except ApiError as error:
            status = error.status
            return JSONResponse(error.body(), status, _HEADERS.get(status))
        finally:
            metrics.requests.labels(status).inc()
            metrics.seconds.observe(time.perf_counter() - started)

    app.router.add_route("/v1/embeddings", embeddings, methods=["POST"])
    add_information(app, encoder, batcher, metrics, config)
    return app


def add_information(app: FastAPI, encoder: Encoder, batcher: Batcher, metrics: ApiMetrics, config: ApiConfig) -> None:
    """`/v1/models`, `/health` and `/metrics`."""
    from fastapi.responses import JSONResponse, PlainTextResponse

    async def models(request: Request) -> Response:
        try:
            check_key(request.headers.get("authorization", ""), config.key)
        except ApiError as error:
            return JSONResponse(error.body(), error.status)
        about = {"id": encoder.name, "object": "model", "owned_by": "perception-encoder", "created": 0}
        return JSONResponse({"object": "list", "data": [{**about, "dimensions": encoder.dimension}]})

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok", "model": encoder.name, "waiting": batcher.reserved})

    async def show_metrics(request: Request) -> Response:
        return PlainTextResponse(metrics.text())

    app.router.add_route("/v1/models", models, methods=["GET"])
    app.router.add_route("/health", health, methods=["GET"])
    app.router.add_route("/metrics", show_metrics, methods=["GET"])


def check_key(header: str, key: str | None) -> None:
    """ApiError unless the header brings the key."""
    if key is not None and not hmac.compare_digest(header.encode(), f"Bearer {key}".encode()):
        raise ApiError(401, "a key is needed: Authorization: Bearer KEY")


async def read_json(request: Request, config: ApiConfig) -> Any:
    """A request's JSON, within the limits on bytes and seconds; ApiError where it is none."""
    from starlette.requests import ClientDisconnect

    body = bytearray()
    try:
        async with asyncio.timeout(config.body_seconds):
            async for piece in request.stream():
                body += piece
                if len(body) > config.body_bytes:
                    raise ApiError(413, f"the body has more than {config.body_bytes:,} bytes, the limit")
    except TimeoutError:
        raise ApiError(408, f"the body took more than {config.body_seconds:g} s, the limit") from None
    except ClientDisconnect:
        raise ApiError(400, "the client has gone") from None  # to nobody
    try:
        return json.loads(bytes(body))
    except (ValueError, RecursionError):
        raise ApiError(400, "the body is no JSON") from None


async def embed(request: EmbeddingRequest, batcher: Batcher, config: ApiConfig) -> np.ndarray:
    """Vectors of a request's inputs; ApiError where one is bad, or too much waits."""
    try:
        with batcher.reserve(len(request.inputs)):
            read = [batcher.read(partial(read_input, kind, value, config.fetch)) for kind, value in request.inputs]
            return await batcher.encode(await asyncio.gather(*read))
    except QueueFullError as error:
        raise ApiError(429, f"{error}; try again later") from None
    except MediaTooLargeError as error:
        raise ApiError(413, str(error), "input") from None
    except InputError as error:
        raise ApiError(400, str(error), "input") from None
    except PerceptionEncoderError as error:
        raise ApiError(500, str(error)) from None


def count_tokens(encoder: Encoder, inputs: Sequence[tuple[Kind, str]]) -> int:
    """Text tokens of a request, for its `usage`; pictures and videos count their patches."""
    texts = [value for kind, value in inputs if kind == "text"]
    patches = encoder.visual.config.grid**2
    others = sum(patches * (8 if kind == "video" else 1) for kind, _ in inputs if kind != "text")
    if not texts or encoder.tokenizer is None:
        return others
    return others + int((encoder.tokenizer(texts).argmax(dim=1) + 1).sum())
