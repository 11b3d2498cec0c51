"""An embedding server that speaks the dialects in use: OpenAI's, as infinity extends it, and vLLM's.

`POST /v1/embeddings` takes `input` (texts or, with `modality`, addresses and data URIs of images or videos), or
`messages` whose one part is a `text`, an `image_url` or a `video_url`. Nothing that a client sends is ever a path here,
or written to a log; addresses are fetched under `fetch.FetchLimits`. All routes are there without `/v1` too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from perception_encoder.errors import InputError, MediaTooLargeError, MissingExtraError, PerceptionEncoderError
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.fetch import FetchLimits, fetch
from perception_encoder.inference.media import Kind, resolve
from perception_encoder.inference.pipeline import Decoded
from perception_encoder.preprocess.source import escape_name
from perception_encoder.serving.api_requests import (
    ApiConfig,
    ApiError,
    EmbeddingRequest,
    answer,
    check_model,
    count_tokens,
    is_address,
    parse_json,
    parse_request,
    read_data_uri,
)
from perception_encoder.serving.batching import Batcher, QueueFullError, quiet
from perception_encoder.serving.guard import HANG_UP, HOSTS, guard, has_key
from perception_encoder.serving.metrics import ApiMetrics

if TYPE_CHECKING:
    from fastapi import FastAPI, Request, Response

_HEADERS = {408: HANG_UP, 413: HANG_UP, 429: {"Retry-After": "1"}}
_PREFIXES = ("/v1", "")  # infinity's clients may or may not have the first in their base URL
_AT_ONCE = 1 << 16  # bytes of a body, or characters of texts, that are handled between two others
Answer = Callable[["Request"], Awaitable["Response"]]


def create_app(
    encoder: Encoder,
    config: ApiConfig,
    hosts: tuple[str, ...] = HOSTS,
    model_thread: ThreadPoolExecutor | None = None,
) -> FastAPI:
    """The server; without a key it answers under some names of this machine only.

    `model_thread`: where the model runs, by default a thread of its own. MissingExtraError without FastAPI or
    prometheus-client.
    """
    try:
        import fastapi
    except ImportError as error:
        raise MissingExtraError(error.name or "fastapi", "search") from None

    encoder = quiet(encoder)
    metrics = ApiMetrics()
    observe = metrics.batch_sizes.observe
    batcher = Batcher(encoder, limit=config.waiting, watch=observe, model_thread=model_thread)
    metrics.waiting.set_function(lambda: batcher.reserved)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        worker = asyncio.create_task(batcher.run())
        batcher.warm_up()
        yield
        worker.cancel()

    app = fastapi.FastAPI(
        title="perception-encoder", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None
    )
    guard(app, hosts=hosts if config.key is None else None)

    add_embeddings(app, encoder, batcher, metrics, config)
    add_information(app, encoder, batcher, metrics, config)
    return app


def add_embeddings(app: FastAPI, encoder: Encoder, batcher: Batcher, metrics: ApiMetrics, config: ApiConfig) -> None:
    """`/v1/embeddings` and, for images alone, infinity's `/v1/embeddings_image`."""
    from fastapi.responses import Response

    bodies = _Bodies(config)

    async def embeddings(request: Request, defaults: dict[str, Any] | None = None) -> Response:
        started, status = time.perf_counter(), 500
        try:
            check_key(request, config.key)
            with bodies.reading() as read:
                body = await read(request)
                if isinstance(body, dict):
                    body = {**(defaults or {}), **body}
                asked = parse_request(body, encoder, config)
                del body
                vectors = await embed(asked, batcher, config)
            status = 200
            tokens = await asyncio.to_thread(count_tokens, encoder, asked.inputs)
            content = await asyncio.to_thread(answer, vectors, asked, encoder.name, tokens)
            return Response(content, media_type="application/json")
        except ApiError as error:
            status = error.status
            return _refusal(error)
        finally:
            metrics.requests.labels(status).inc()
            metrics.seconds.observe(time.perf_counter() - started)

    for prefix in _PREFIXES:
        app.router.add_route(f"{prefix}/embeddings", embeddings, methods=["POST"])
        images = partial(embeddings, defaults={"modality": "image"})
        app.router.add_route(f"{prefix}/embeddings_image", images, methods=["POST"])


def add_information(app: FastAPI, encoder: Encoder, batcher: Batcher, metrics: ApiMetrics, config: ApiConfig) -> None:
    """`/v1/models`, `/v1/models/{id}` and `/metrics`, under the key, and `/health`."""
    from fastapi.responses import JSONResponse, PlainTextResponse

    def get(path: str, handle: Callable[[Request], Response], keyed: bool = True) -> None:
        async def respond(request: Request) -> Response:
            try:
                if keyed:
                    check_key(request, config.key)
                return handle(request)
            except ApiError as error:
                return _refusal(error)

        for prefix in _PREFIXES:
            app.router.add_route(prefix + path, respond, methods=["GET"])

    def about() -> dict[str, Any]:
        waits = {"queue_absolute": batcher.reserved, "queue_fraction": batcher.reserved / config.waiting}
        return {
            "id": encoder.name,
            "object": "model",
            "owned_by": "infinity",  # the only owner that infinity's client takes
            "created": 0,
            "backend": "torch",
            "capabilities": ["image_embed", *(["embed"] if encoder.tokenizer else [])],
            "dimensions": encoder.dimension,
            "stats": {**waits, "results_pending": batcher.reserved, "batch_size": batcher.largest},
        }

    def model(request: Request) -> Response:
        check_model(request.path_params["id"], encoder, config)
        return JSONResponse(about())

    def health(request: Request) -> Response:
        return JSONResponse({"status": "ok", "unix": time.time(), "model": encoder.name, "waiting": batcher.reserved})

    get("/models", lambda _: JSONResponse({"object": "list", "data": [about()]}))
    get("/models/{id:path}", model)
    get("/health", health, keyed=False)
    get("/metrics", lambda _: PlainTextResponse(metrics.text()))


def check_key(request: Request, key: str | None) -> None:
    """ApiError unless the request brings the key."""
    if key is not None and not has_key(request, key):
        raise ApiError(401, "a key is needed: Authorization: Bearer KEY")


def _refusal(error: ApiError) -> Response:
    from fastapi.responses import JSONResponse

    return JSONResponse(error.body(), error.status, _HEADERS.get(error.status))


class _Bodies:
    """Reads requests within the limits on bytes and seconds, those on all of them together included."""

    def __init__(self, config: ApiConfig) -> None:
        self._config = config
        self._bytes = 0

    @contextmanager
    def reading(self) -> Iterator[Callable[[Request], Awaitable[Any]]]:
        """Yield what reads a request's JSON; what it has read counts until the block ends."""
        own = _Count()
        try:
            yield partial(self._read, own)
        finally:
            self._bytes -= own.bytes

    async def _read(self, own: _Count, request: Request) -> Any:
        from starlette.requests import ClientDisconnect

        config, body = self._config, bytearray()
        try:
            async with asyncio.timeout(config.body_seconds):
                async for piece in request.stream():
                    if len(body) + len(piece) > config.body_bytes:
                        raise ApiError(413, f"the body has more than {config.body_bytes:,} bytes, the limit")
                    if self._bytes + len(piece) > config.bodies_bytes:
                        raise ApiError(429, "too much is being read; try again later")
                    body += piece
                    own.bytes += len(piece)
                    self._bytes += len(piece)
        except TimeoutError:
            raise ApiError(408, f"the body took more than {config.body_seconds:g} s, the limit") from None
        except ClientDisconnect:
            raise ApiError(400, "the client has gone") from None  # to nobody
        return parse_json(bytes(body)) if len(body) < _AT_ONCE else await asyncio.to_thread(parse_json, bytes(body))


@dataclass
class _Count:
    bytes: int = 0


async def embed(request: EmbeddingRequest, batcher: Batcher, config: ApiConfig) -> np.ndarray:
    """Vectors of a request's inputs; ApiError if one is bad, or too much waits.

    Some at a time, so that others' inputs come in between.
    """
    limits, size = _Deadline(config.fetch), batcher.largest
    parts = [request.inputs[start : start + size] for start in range(0, len(request.inputs), size)]
    vectors = []
    try:
        with batcher.reserve(len(request.inputs)):
            for part in parts:
                addresses = [is_address(kind, value) for kind, value in part]
                async with asyncio.timeout(limits.left() if any(addresses) else None):
                    reading = [
                        _read(kind, value, address, batcher, limits)
                        for (kind, value), address in zip(part, addresses, strict=True)
                    ]
                    decoded = await asyncio.gather(*reading)
                vectors.append(await batcher.encode(decoded))
    except TimeoutError:
        message = f"the addresses took more than {config.fetch.seconds:g} s in all, the limit"
        raise ApiError(413, message, "input") from None
    except QueueFullError as error:
        raise ApiError(429, f"{error}; try again later") from None
    except MediaTooLargeError as error:
        raise ApiError(413, str(error), "input") from None
    except InputError as error:
        raise ApiError(400, str(error), "input") from None
    except PerceptionEncoderError as error:
        raise ApiError(500, str(error)) from None
    return np.concatenate(vectors)


async def _read(kind: Kind, value: str, address: bool, batcher: Batcher, limits: _Deadline) -> Decoded:
    """A text as it is; of an image or video the pixels, out of its data URI or fetched. Raises InputError."""
    if kind == "text":
        return Decoded(text=value)
    if not address:
        return await batcher.decode(partial(read_data_uri, kind, value))
    # bytes: never a path, whatever the address looks like
    return await batcher.fetch(
        lambda: fetch(value, limits.limits()), lambda content: resolve(content, escape_name(value), kind=kind)
    )


class _Deadline:
    """The limits on a request's downloads, whose seconds are for all of them together."""

    def __init__(self, limits: FetchLimits) -> None:
        self._limits, self._end = limits, time.monotonic() + limits.seconds

    def left(self) -> float:
        return max(0.0, self._end - time.monotonic())

    def limits(self) -> FetchLimits:
        """The limits for a download that begins now."""
        return replace(self._limits, seconds=self.left())
