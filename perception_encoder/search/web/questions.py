"""Questions about the page's images and moments, answered by a language model; answers are streamed."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, ClassVar

from perception_encoder.errors import ConfigError
from perception_encoder.files import file_state
from perception_encoder.inference.media import open_media
from perception_encoder.preprocess.budget import DECODING
from perception_encoder.preprocess.conversation import MediaPart, Message, Reply, Sampling
from perception_encoder.search.web.library import MediaLibrary
from perception_encoder.search.web.responses import SignedIds, stream_lines
from perception_encoder.serving.queues import GenerationQueue
from perception_encoder.web_server.http import REQUEST, BodyReader, parse_body

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


class Questions:
    """Answers questions about a library's images by the model of `queue`."""

    def __init__(self, library: MediaLibrary, queue: GenerationQueue) -> None:
        self._library, self._queue = library, queue
        self._opened = lru_cache(_CACHED)(self._open)

    async def answer(self, row_id: str, request: AskRequest) -> AsyncGenerator[str | Reply, None]:
        """Yield the pieces of an answer and finally the whole answer.

        Raises what `MediaLibrary.media` raises, the InputError of a file that cannot be decoded, QueueFullError, and
        what `GenerationQueue.stream` raises.
        """
        with self._queue.reserve():
            async with aclosing(self._queue.stream(partial(self._conversation, row_id, request), _SAMPLING)) as stream:
                async for piece in stream:
                    yield piece

    def _conversation(self, row_id: str, request: AskRequest) -> list[Message]:
        item, turns, conversation = self._find(row_id), [*request.before, (request.question, None)], []
        for number, (question, answer) in enumerate(turns):
            conversation.append(Message("user", (question,) if number else (item, question)))
            conversation += [Message("assistant", (answer,))] if answer is not None else []
        return conversation

    def _find(self, row_id: str) -> MediaPart:
        return self._opened(row_id, file_state(self._library.file(row_id)))

    def _open(self, row_id: str, state: str) -> MediaPart:
        """Open a row's image, or frames of its whole moment; the file's state is part of the cache's key."""
        media, _ = self._library.media(row_id, whole=True)
        with DECODING.admission() as admit:
            opened = open_media(media, admit=admit)
        assert not isinstance(opened, str)  # rows are not texts
        return opened


def add_ask_route(app: FastAPI, library: MediaLibrary, ids: SignedIds, queue: GenerationQueue | None) -> None:
    """Add `POST /api/ask/ID`, answered by lines of JSON: `{"text"}` for each piece, then its end and model."""
    from fastapi.responses import JSONResponse

    bodies = BodyReader(_BODY_BYTES, _BODY_SECONDS)
    questions = Questions(library, queue) if queue else None

    async def respond(request: Request) -> Response:
        if questions is None:
            return JSONResponse({"error": NO_MODEL}, 404)

        async def begin() -> AsyncGenerator[str | Reply, None]:
            row_id = ids.check(request.path_params["id"])
            async with bodies.read(request, read_question) as question:
                return questions.answer(row_id, question)

        return await stream_lines(request, begin, describe)

    def describe(piece: str | Reply) -> dict[str, Any]:
        return {"text": piece} if isinstance(piece, str) else {"finished": piece.finished, "cut": piece.cut}

    app.router.add_route("/api/ask/{id}", respond, methods=["POST"])


def read_question(body: bytes | bytearray) -> AskRequest:
    """Read a request's body; raises ApiError, and ConfigError for an empty question or a too long conversation."""
    request = parse_body(body, AskRequest)
    if not request.question.strip():
        raise ConfigError("the question is empty")
    characters = len(request.question) + sum(len(text) for turn in request.before for text in turn)
    if characters > _CHARACTERS:
        raise ConfigError(f"the conversation has {characters:,} characters; the limit is {_CHARACTERS:,}")
    return request
