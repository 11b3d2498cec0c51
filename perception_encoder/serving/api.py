"""Serve embeddings and chats as OpenAI's API does, and rankings as clients of Cohere and Jina send them.

Nothing that a client sends is used as a path or logged.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from perception_encoder.errors import InputError, PerceptionEncoderError, detached, needs_extra
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.feature import Feature
from perception_encoder.inference.pipeline import Decoded
from perception_encoder.models.registry import demo_note
from perception_encoder.preprocess.media import Kind
from perception_encoder.runtime.towers import PackageTowers
from perception_encoder.serving.chat import answer_chat
from perception_encoder.serving.immich import Immich, add_immich_routes
from perception_encoder.serving.queues import Batcher, GenerationQueue, quiet
from perception_encoder.serving.requests import (
    ApiConfig,
    EmbeddingRequest,
    Input,
    MediaReader,
    RerankRequest,
    check_model,
    check_request,
    check_rerank,
    gather_results,
    input_refused,
    parse_request,
    parse_rerank,
)
from perception_encoder.vectors import best_rows, unit_rows
from perception_encoder.web_server.http import ApiError, BodyReader
from perception_encoder.web_server.server import HANG_UP, HOSTS, check_key, guard

if TYPE_CHECKING:
    from fastapi import FastAPI, Request, Response

_HEADERS = {408: HANG_UP, 413: HANG_UP, 429: {"Retry-After": "1"}}


def create_app(
    encoder: Encoder,
    config: ApiConfig,
    hosts: tuple[str, ...] = HOSTS,
    model_thread: ThreadPoolExecutor | None = None,
    chat: GenerationQueue | None = None,
    immich: Immich | None = None,
) -> FastAPI:
    """Create the server, without a key only for this machine's host names; MissingExtraError without FastAPI.

    Args:
        model_thread: The thread that runs the encoder; by default a new one.
        chat: The model of `/v1/chat/completions`.
        immich: Answer a photo server instead, under any host name.
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
    guard(app, hosts=None if config.key or immich else hosts, origins=config.origins, pages=immich is None)

    def answer(error: ApiError, headers: Mapping[str, str] | None = None) -> Response:
        body = error.body() if immich is None else {"detail": error.message}
        return JSONResponse(body, error.status, headers or _HEADERS.get(error.status))

    @app.exception_handler(ApiError)
    async def refuse(request: Request, error: ApiError) -> Response:
        return answer(detached(error))

    @app.exception_handler(HTTPException)
    async def refuse_route(request: Request, error: HTTPException) -> Response:
        reason = f"{error.detail}: {request.method} {request.url.path}"[:200]
        return answer(ApiError(error.status_code, reason), error.headers)

    @app.exception_handler(Exception)
    async def fail(request: Request, error: Exception) -> Response:
        return answer(ApiError(500, "the server failed; its log says why"))

    if immich is None:
        add_routes(app, encoder, batcher, chat, config)
    else:
        add_immich_routes(app, encoder, batcher, config, immich)
    return app


def add_routes(
    app: FastAPI, encoder: Encoder, batcher: Batcher, chat: GenerationQueue | None, config: ApiConfig
) -> None:
    """Add embeddings, rankings, chats and models, which need the key, and health."""
    from fastapi.responses import JSONResponse, Response

    reader = MediaReader(config)
    bodies = BodyReader(config.body_bytes, config.body_seconds, config.bodies_bytes)

    def route(method: str, path: str, respond: Callable[[Request], Awaitable[Response]]) -> None:
        async def handle(request: Request) -> Response:
            check_key(request, config.key)
            return await respond(request)

        app.router.add_route(path, handle, methods=[method])

    async def embed(
        request: Request,
        parameter: str,
        parse: Callable[[bytearray], Any],
        check: Callable[[Any, Encoder, ApiConfig], tuple[list[Input], list[Feature]]],
        encode: Callable[[Any, np.ndarray, Encoder, Sequence[Input], Feature], bytes],
    ) -> Response:
        def read(body: bytearray) -> tuple[Any, list[Input], list[Feature]]:
            parsed = parse(body)
            return parsed, *check(parsed, encoder, config)

        async with bodies.read(request, read) as (parsed, inputs, features):
            vectors = await embed_inputs(inputs, batcher, reader, features, parameter)
            answer = await asyncio.to_thread(encode, parsed, vectors, encoder, inputs, features[0])
        return Response(answer, media_type="application/json")

    entries = [{**_model_entry(encoder.name), "dimensions": encoder.dimension}]
    entries += [_model_entry(chat.name)] if chat else []

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": entries})

    async def model(request: Request) -> Response:
        if chat and request.path_params["id"] in chat.names:
            return JSONResponse(entries[-1])
        check_model(request.path_params["id"], encoder, config)
        return JSONResponse(entries[0])

    async def health(request: Request) -> Response:
        waiting = batcher.reserved + (chat.reserved if chat else 0)
        return JSONResponse({"status": "ok", "model": encoder.name, "waiting": waiting})

    embeddings = partial(embed, parameter="input", parse=parse_request, check=check_request, encode=_encode_embeddings)
    rerank = partial(embed, parameter="documents", parse=parse_rerank, check=check_rerank, encode=_encode_ranking)
    route("POST", "/v1/embeddings", embeddings)
    for prefix in ("", "/v1", "/v2"):  # where clients of several servers look for it
        route("POST", f"{prefix}/rerank", rerank)
    answer = partial(answer_chat, model=chat, reader=reader, bodies=bodies, config=config)
    route("POST", "/v1/chat/completions", answer)
    route("GET", "/v1/models", models)
    route("GET", "/v1/models/{id:path}", model)
    app.router.add_route("/health", health, methods=["GET"])


def _model_entry(name: str) -> dict[str, Any]:
    note = {"note": note} if (note := demo_note(name)) else {}
    return {"id": name, "object": "model", "created": 0, "owned_by": "perception-encoder", **note}


def _encode_embeddings(
    request: EmbeddingRequest,
    vectors: Float[np.ndarray, "n D"],
    encoder: Encoder,
    inputs: Sequence[Input],
    feature: Feature,
) -> bytes:
    """Return the answer's JSON, with vectors truncated to the requested dimensions and renormalized."""
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


def _encode_ranking(
    request: RerankRequest,
    vectors: Float[np.ndarray, "n D"],
    encoder: Encoder,
    inputs: Sequence[Input],
    feature: Feature,
) -> bytes:
    assert request.documents is not None
    scores, rows = best_rows(vectors[0], vectors[1:], request.top_n or len(request.documents))
    results: list[dict[str, Any]] = []
    for row, score in zip(rows.tolist(), scores.tolist(), strict=True):
        document = request.documents[row]
        shown = {"document": {"text": document} if isinstance(document, str) else document}
        results.append({"index": row, "relevance_score": score, **(shown if request.return_documents else {})})
    return _encode({"object": "rerank", "results": results}, encoder, inputs, feature)


async def embed_inputs(
    inputs: Sequence[Input], batcher: Batcher, reader: MediaReader, features: Sequence[Feature], parameter: str
) -> Float[np.ndarray, "n D"]:
    """Embed a request's inputs; ApiError if one is bad or too many are waiting.

    One batch at a time, so that other requests get their turn in between.
    """
    end, size = reader.deadline(), batcher.largest
    vectors = []
    try:
        with batcher.reserve(len(inputs)) as hold:

            async def decode(kind: Kind, value: str, feature: Feature) -> Decoded:
                if kind == "text":
                    return Decoded(text=value)
                return hold(await reader.read(kind, value, end, lambda media: batcher.decode(media, feature)))

            for start in range(0, len(inputs), size):
                part, own = inputs[start : start + size], features[start : start + size]
                works = [decode(*item, feature) for item, feature in zip(part, own, strict=True)]
                vectors.append(await batcher.encode(await gather_results(works), own))
    except InputError as error:
        raise input_refused(error, parameter) from None
    except PerceptionEncoderError as error:
        raise ApiError(500, str(error)) from None
    return np.concatenate(vectors)


def count_tokens(encoder: Encoder, inputs: Sequence[Input]) -> int:
    """Count the text tokens and patches of a request for its `usage`; 0 for other libraries' models."""
    if not isinstance(encoder.towers, PackageTowers):
        return 0
    texts = [value for kind, value in inputs if kind == "text"]
    patches = sum(encoder.towers.vision.grid**2 * (8 if kind == "video" else 1) for kind, _ in inputs if kind != "text")
    if not texts or encoder.tokenizer is None:
        return patches
    return patches + int((encoder.tokenizer.ids(texts).argmax(axis=1) + 1).sum())
