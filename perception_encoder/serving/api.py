"""Serve embeddings, rankings and chats in the dialects that clients speak: OpenAI's, infinity's, Jina's and vLLM's.

Nothing that a client sends is used as a path or logged; addresses are fetched under `fetch.FetchLimits`.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from perception_encoder.errors import InputError, PerceptionEncoderError, detached, needs_extra
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.media import Kind
from perception_encoder.inference.pipeline import Decoded, Feature
from perception_encoder.models.registry import demo_note
from perception_encoder.serving.chat import ChatApi
from perception_encoder.serving.http import ApiError, ApiMetrics, BodyReader
from perception_encoder.serving.queues import Batcher, GenerationQueue, QueueFullError, quiet
from perception_encoder.serving.ranking import (
    check_classify,
    check_rerank,
    classify,
    parse_classify,
    parse_rerank,
    rank,
)
from perception_encoder.serving.requests import (
    ApiConfig,
    EmbeddingRequest,
    Input,
    MediaReader,
    check_model,
    check_request,
    gather_results,
    input_refused,
    is_address,
    parse_request,
    too_slow,
)
from perception_encoder.serving.server import HANG_UP, HOSTS, check_key, guard
from perception_encoder.vectors import unit_rows

if TYPE_CHECKING:
    from fastapi import FastAPI, Request, Response

_HEADERS = {408: HANG_UP, 413: HANG_UP, 429: {"Retry-After": "1"}}
_PREFIXES = ("/v1", "")  # infinity's clients may or may not have the first in their base URL


def create_app(
    encoder: Encoder,
    config: ApiConfig,
    hosts: tuple[str, ...] = HOSTS,
    model_thread: ThreadPoolExecutor | None = None,
    chat: GenerationQueue | None = None,
) -> FastAPI:
    """Create the server; without a key it answers only under the host names of this machine.

    `model_thread`: the thread that runs the encoder; by default a new one. `chat`: the model of `/v1/chat/completions`.
    MissingExtraError without FastAPI or prometheus-client.
    """
    with needs_extra("search"):
        import fastapi
        from fastapi.responses import JSONResponse
        from starlette.exceptions import HTTPException

    encoder = quiet(encoder)
    batcher = Batcher(encoder, limit=config.waiting, model_thread=model_thread)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        worker = asyncio.create_task(batcher.run())
        batcher.warm_up()
        yield
        worker.cancel()

    app = fastapi.FastAPI(
        title="perception-encoder", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None
    )
    guard(app, hosts=hosts if config.key is None else None, origins=config.origins)

    @app.exception_handler(ApiError)
    async def refuse(request: Request, error: ApiError) -> Response:
        return JSONResponse(detached(error).body(), error.status, _HEADERS.get(error.status))

    @app.exception_handler(HTTPException)
    async def refuse_route(request: Request, error: HTTPException) -> Response:
        refused = ApiError(error.status_code, f"{error.detail}: {request.method} {request.url.path}"[:200])
        return JSONResponse(refused.body(), refused.status, error.headers)

    @app.exception_handler(Exception)
    async def fail(request: Request, error: Exception) -> Response:
        return JSONResponse(ApiError(500, "the server failed; its log says why").body(), 500)

    add_routes(app, encoder, batcher, chat, config)
    return app


def add_routes(
    app: FastAPI, encoder: Encoder, batcher: Batcher, chat: GenerationQueue | None, config: ApiConfig
) -> None:
    """Add embeddings, rankings, chats, models and metrics, which need the key, and health."""
    from fastapi.responses import JSONResponse, PlainTextResponse, Response

    metrics = ApiMetrics()
    metrics.waiting.labels("inputs").set_function(lambda: batcher.reserved)
    metrics.waiting.labels("conversations").set_function(lambda: chat.reserved if chat else 0)
    reader = MediaReader(config.fetch)
    bodies = BodyReader(config.body_bytes, config.body_seconds, config.bodies_bytes)

    def route(method: str, path: str, respond: Callable[[Request], Awaitable[Response]], keyed: bool = True) -> None:
        async def handle(request: Request) -> Response:
            status = 500
            try:
                if keyed:
                    check_key(request, config.key)
                response = await respond(request)
                status = 200
                return response
            except ApiError as error:
                status = error.status
                raise
            finally:
                metrics.requests.labels(path, status).inc()

        for prefix in _PREFIXES:
            app.router.add_route(prefix + path, handle, methods=[method])

    async def embed(request: Request, steps: Steps) -> Response:
        parameter, parse, check, encode = steps
        with metrics.seconds.time():
            async with bodies.read_as(request, parse) as parsed:
                inputs, features = check(parsed, encoder, config)
                vectors = await embed_inputs(inputs, batcher, reader, features, parameter)
                answer = await asyncio.to_thread(encode, parsed, vectors, encoder, inputs, features[0])
        return Response(answer, media_type="application/json")

    entries = partial(_model_entries, encoder, batcher, chat, config)

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": entries()})

    async def model(request: Request) -> Response:
        if chat and request.path_params["id"] in chat.names:
            return JSONResponse(entries()[-1])
        check_model(request.path_params["id"], encoder, config)
        return JSONResponse(entries()[0])

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok", "unix": time.time(), "model": encoder.name, "waiting": batcher.reserved})

    async def show_metrics(request: Request) -> Response:
        return PlainTextResponse(metrics.text())

    route("POST", "/embeddings", partial(embed, steps=_EMBEDDINGS))
    route("POST", "/embeddings_image", partial(embed, steps=_IMAGE_EMBEDDINGS))
    route("POST", "/rerank", partial(embed, steps=_RERANK))
    route("POST", "/classify", partial(embed, steps=_CLASSIFY))
    route("POST", "/chat/completions", ChatApi(chat, reader, bodies, config).respond)
    route("GET", "/models", models)
    route("GET", "/models/{id:path}", model)
    route("GET", "/health", health, keyed=False)
    route("GET", "/metrics", show_metrics)


def _model_entries(
    encoder: Encoder, batcher: Batcher, chat: GenerationQueue | None, config: ApiConfig
) -> list[dict[str, Any]]:
    able = {"image_embed": encoder.reads_images, "rerank": True, "classify": True, "embed": encoder.reads_texts}
    capabilities = [name for name, is_able in able.items() if is_able]
    entry = _model_entry(encoder.name, capabilities, batcher.reserved, config.waiting, batcher.largest)
    entry["backend"] = encoder.runtime.name
    chats = [_model_entry(chat.name, ["chat"], chat.reserved, chat.limit, 1)] if chat else []
    return [{**entry, "dimensions": encoder.dimension}, *chats]


def _model_entry(name: str, capabilities: list[str], waiting: int, limit: int, batch: int) -> dict[str, Any]:
    """Return a model's entry in the list; `waiting`, `limit`: those of its queue; `batch`: maximum batch size."""
    queue = {"queue_absolute": waiting, "queue_fraction": waiting / limit, "results_pending": waiting}
    return {
        "id": name,
        "object": "model",
        **({"note": note} if (note := demo_note(name)) else {}),
        "owned_by": "infinity",  # the only owner that infinity's client takes
        "created": 0,
        "backend": "torch",
        "capabilities": capabilities,
        "stats": {**queue, "batch_size": batch},
    }


def _encode_embeddings(
    request: EmbeddingRequest,
    vectors: Float[np.ndarray, "n D"],
    encoder: Encoder,
    inputs: Sequence[Input],
    feature: Feature,
) -> bytes:
    """Return the answer's JSON, with vectors truncated to the requested dimensions and renormalised."""
    cut = unit_rows(vectors[:, : request.dimensions or None]).astype("<f4")
    rows = []
    for index, vector in enumerate(cut):  # one at a time: `json` blocks all other threads
        encoded = vector.tolist()
        if request.encoding_format == "base64":
            encoded = base64.b64encode(vector.tobytes()).decode()
        rows.append(json.dumps({"object": "embedding", "index": index, "embedding": encoded}))
    chosen = {} if request.layer is None and request.pool is None else {"layer": feature.layer, "pool": feature.pool}
    head = _encode({"object": "list", **chosen}, encoder, inputs, feature).decode()
    return f'{head[:-1]}, "data": [{", ".join(rows)}]}}'.encode()


def _encode(answer: dict[str, Any], encoder: Encoder, inputs: Sequence[Input], feature: Feature) -> bytes:
    """Return an answer's JSON with the model, its runtime and precision, and the tokens that the inputs cost."""
    tokens = count_tokens(encoder, inputs)
    texts = all(kind == "text" for kind, _ in inputs)
    runtime, precision = encoder.runtime.used(feature.executed, texts)
    about = {"model": encoder.name, "runtime": runtime, "precision": precision}
    note = {"note": note} if (note := demo_note(encoder.name)) else {}
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return json.dumps({**answer, **about, **note, "usage": usage}).encode()


def _encode_scores(
    score: Callable[[Any, np.ndarray, Encoder], dict[str, Any]],
    request: Any,
    vectors: Float[np.ndarray, "n D"],
    encoder: Encoder,
    inputs: Sequence[Input],
    feature: Feature,
) -> bytes:
    return _encode(score(request, vectors, encoder), encoder, inputs, feature)


Steps = tuple[
    str,
    Callable[[bytearray], Any],
    Callable[[Any, Encoder, ApiConfig], tuple[list[Input], list[Feature]]],
    Callable[[Any, np.ndarray, Encoder, Sequence[Input], Feature], bytes],
]
"""The field of the inputs, and functions that parse a request, check it, and return the answer for the vectors."""
_EMBEDDINGS: Steps = ("input", parse_request, check_request, _encode_embeddings)
_IMAGE_EMBEDDINGS: Steps = ("input", parse_request, partial(check_request, kind="image"), _encode_embeddings)
_RERANK: Steps = ("documents", parse_rerank, check_rerank, partial(_encode_scores, rank))
_CLASSIFY: Steps = ("input", parse_classify, check_classify, partial(_encode_scores, classify))


async def embed_inputs(
    inputs: Sequence[Input], batcher: Batcher, reader: MediaReader, features: Sequence[Feature], parameter: str
) -> Float[np.ndarray, "n D"]:
    """Embed a request's inputs; ApiError if one is bad or too many are waiting.

    One batch at a time, so that other requests get their turn in between.
    """
    end, size = time.monotonic() + reader.limits.seconds, batcher.largest
    vectors = []
    try:
        with batcher.reserve(len(inputs)) as hold:
            for start in range(0, len(inputs), size):
                part, own = inputs[start : start + size], features[start : start + size]
                left = max(0.0, end - time.monotonic()) if any(is_address(*item) for item in part) else None
                async with asyncio.timeout(left):
                    decoded = await gather_results(
                        [
                            _decode(*item, batcher, reader, end, hold, feature)
                            for item, feature in zip(part, own, strict=True)
                        ]
                    )
                vectors.append(await batcher.encode(decoded, own))
    except TimeoutError:
        raise too_slow(reader.limits, parameter) from None
    except QueueFullError as error:
        raise ApiError(429, f"{error}; try again later") from None
    except InputError as error:
        raise input_refused(error, parameter) from None
    except PerceptionEncoderError as error:
        raise ApiError(500, str(error)) from None
    return np.concatenate(vectors)


async def _decode(
    kind: Kind,
    value: str,
    batcher: Batcher,
    reader: MediaReader,
    end: float,
    hold: Callable[[Decoded], Decoded],
    feature: Feature,
) -> Decoded:
    if kind == "text":
        return Decoded(text=value)
    return hold(await reader.read(kind, value, end, lambda media: batcher.decode(media, feature)))


def count_tokens(encoder: Encoder, inputs: Sequence[Input]) -> int:
    """Count the text tokens and patches of a request for its `usage`; 0 for other libraries' models."""
    if encoder.tokenizer is None and not hasattr(encoder, "vision"):
        return 0
    texts = [value for kind, value in inputs if kind == "text"]
    patches = sum(encoder.vision.grid**2 * (8 if kind == "video" else 1) for kind, _ in inputs if kind != "text")
    if not texts or encoder.tokenizer is None:
        return patches
    return patches + int((encoder.tokenizer.ids(texts).argmax(axis=1) + 1).sum())
