"""Questions about the page's images and moments, answered by a language model; answers are streamed."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import TYPE_CHECKING, ClassVar

from perception_encoder.errors import ConfigError, PerceptionEncoderError
from perception_encoder.files import file_state
from perception_encoder.preprocess.budget import DECODING
from perception_encoder.preprocess.conversation import MediaPart, Message, Reply, Sampling
from perception_encoder.preprocess.media import open_media
from perception_encoder.search_page.library import MediaLibrary, SignedIds
from perception_encoder.serving.queues import GenerationQueue
from perception_encoder.web_server.http import REQUEST, BodyReader, parse_body, stream_response, unless_gone

if TYPE_CHECKING:
    from fastapi import FastAPI, Request, Response

NO_MODEL = "this page has no language model; start it with: pe serve DIR --ask-model facebook/Perception-LM-1B"
_BODY_BYTES, _BODY_SECONDS = 1 << 20, 10.0
_CHARACTERS = 50_000  # of a conversation
_CACHED = 2  # opened images and moments, which the model encodes once for several questions
_SAMPLING = Sampling(max_tokens=256)


@dataclass(kw_only=True)
class AskRequest:
    """The JSON of a question."""

    __pydantic_config__: ClassVar = REQUEST
    question: str
    before: list[tuple[str, str]] = field(default_factory=list)
    """Earlier questions about the same image, with their answers."""


def add_ask_route(app: FastAPI, library: MediaLibrary, ids: SignedIds, queue: GenerationQueue | None) -> None:
    """Add `POST /api/ask/ID`, answered by lines of JSON: `{"text"}` for each piece, then its end and model."""
    from fastapi.responses import JSONResponse

    bodies = BodyReader(_BODY_BYTES, _BODY_SECONDS)

    @lru_cache(_CACHED)
    def opened(row_id: str, state: str) -> MediaPart:
        """Open a row's image, or frames of its whole moment; the file's state is part of the cache's key."""
        media, _ = library.media(row_id, whole=True)
        with DECODING.admission() as admit:
            part = open_media(media, admit=admit)
        assert not isinstance(part, str)  # rows are not texts
        return part

    def conversation(row_id: str, request: AskRequest) -> list[Message]:
        messages: list[Message] = []
        for question, answer in [*request.before, (request.question, None)]:
            item = () if messages else (opened(row_id, file_state(library.file(row_id))),)
            messages.append(Message("user", (*item, question)))
            messages += [] if answer is None else [Message("assistant", (answer,))]
        return messages

    async def answers(queue: GenerationQueue, work: Callable[[], list[Message]]) -> AsyncGenerator[str | Reply, None]:
        with queue.reserve():
            async with aclosing(queue.stream(work, _SAMPLING)) as stream:
                async for piece in stream:
                    yield piece

    async def respond(request: Request) -> Response:
        if queue is None:
            return JSONResponse({"error": NO_MODEL}, 404)
        row_id = ids.check(request.path_params["id"])
        async with bodies.read(request, read_question) as question:
            pieces = answers(queue, partial(conversation, row_id, question))
        first = await unless_gone(request, anext(pieces))  # an error before it sets the status
        return stream_response(_lines(first, pieces), pieces, "application/x-ndjson")

    app.router.add_route("/api/ask/{id}", respond, methods=["POST"])


async def _lines(first: str | Reply, others: AsyncIterator[str | Reply]) -> AsyncIterator[bytes]:
    """Yield an answer's pieces as lines of JSON; an error becomes the last line."""
    try:
        yield _line(first)
        async for piece in others:
            yield _line(piece)
    except PerceptionEncoderError as error:
        yield json.dumps({"error": str(error)}).encode() + b"\n"


def _line(piece: str | Reply) -> bytes:
    content = {"text": piece} if isinstance(piece, str) else {"finished": piece.finished, "cut": piece.cut}
    return json.dumps(content).encode() + b"\n"


def read_question(body: bytes | bytearray) -> AskRequest:
    """Read a request's body; raises ApiError, and ConfigError for an empty question or a too long conversation."""
    request = parse_body(body, AskRequest)
    if not request.question.strip():
        raise ConfigError("the question is empty")
    characters = len(request.question) + sum(len(text) for turn in request.before for text in turn)
    if characters > _CHARACTERS:
        raise ConfigError(f"the conversation has {characters:,} characters; the limit is {_CHARACTERS:,}")
    return request
