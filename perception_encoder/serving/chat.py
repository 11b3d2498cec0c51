"""OpenAI's chat API: `POST /v1/chat/completions`, answered by a language model, whole or streamed."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any

from perception_encoder.errors import ConfigError, ContextLengthError, InputError, PerceptionEncoderError
from perception_encoder.inference.media import Kind, Media, open_media
from perception_encoder.models.registry import demo_note
from perception_encoder.preprocess.budget import DECODING, MAX_PIXELS
from perception_encoder.preprocess.conversation import ContentPart, Message, Reply, Role, Sampling
from perception_encoder.preprocess.image import count_pixels
from perception_encoder.serving.batching import QueueFullError
from perception_encoder.serving.bodies import BodyReader, parse_content
from perception_encoder.serving.chat_requests import ALLOWED, ROLES, ChatRequest, check_chat, part_name
from perception_encoder.serving.generation import GenerationQueue, Hold
from perception_encoder.serving.guard import check_key
from perception_encoder.serving.metrics import ApiMetrics
from perception_encoder.serving.parsing import ApiError, parse_body
from perception_encoder.serving.reading import MediaReader, gather_results, input_refused, is_address, too_slow
from perception_encoder.serving.requests import ApiConfig, Input
from perception_encoder.serving.streaming import first_piece, stream_response, unless_gone

if TYPE_CHECKING:
    from fastapi import Request, Response

NO_MODEL = "this server has no chat model; start it with: pe serve --api --chat-model NAME"


class ChatApi:
    """Answers requests of the chat API by one model; `model`: None answers 404."""

    def __init__(
        self,
        model: GenerationQueue | None,
        reader: MediaReader,
        bodies: BodyReader,
        metrics: ApiMetrics,
        config: ApiConfig,
    ) -> None:
        self._model, self._reader, self._bodies = model, reader, bodies
        self._metrics, self._config = metrics, config

    async def respond(self, request: Request) -> Response:
        """Answer a request; raises ApiError."""
        from fastapi.responses import JSONResponse

        check_key(request, self._config.key)
        if self._model is None:
            raise ApiError(404, NO_MODEL, "model", "model_not_found")
        async with self._bodies.read(request) as body:
            content = bytes(body)
            body.clear()
            parsed = await parse_content(content, lambda body: parse_body(body, ChatRequest, ALLOWED))
            del content
            parts, sampling = check_chat(parsed, self._config, *self._model.names)
            roles = [ROLES[message.role] for message in parsed.messages]
            parsed.messages = []  # with their data URIs
            pieces = self._pieces(self._model, roles, parts, sampling)
            del parts
            if not parsed.stream:
                reply = await unless_gone(request, _last(pieces))
                return JSONResponse(_completion(self._model.name, reply))
            first = await unless_gone(request, first_piece(pieces))
        usage = bool(parsed.stream_options and parsed.stream_options.include_usage)
        return stream_response(_events(self._model.name, first, pieces, usage), pieces, "text/event-stream")

    async def _pieces(
        self,
        model: GenerationQueue,
        roles: Sequence[Role],
        parts: Sequence[Sequence[Input]],
        sampling: Sampling,
    ) -> AsyncGenerator[str | Reply, None]:
        """Yield the pieces of an answer and, last, the whole; raises ApiError."""
        try:
            with model.reserve() as hold:
                frames = self._config.frames
                contents = await read_parts(parts, self._reader, frames, hold)
                del parts
                stream_of = model.stream(partial(open_conversation, roles, contents, frames), sampling)
                async with aclosing(stream_of) as stream:
                    async for piece in stream:
                        if isinstance(piece, Reply):
                            self._metrics.chat_tokens.labels("prompt").inc(piece.prompt_tokens)
                            self._metrics.chat_tokens.labels("answer").inc(piece.tokens)
                        yield piece
        except QueueFullError as error:
            raise ApiError(429, f"{error}; try again later") from None
        except ContextLengthError as error:
            raise ApiError(400, str(error), "messages", "context_length_exceeded") from None
        except ConfigError as error:
            raise ApiError(400, str(error), "messages") from None
        except PerceptionEncoderError as error:
            raise ApiError(500, str(error)) from None


async def read_parts(
    parts: Sequence[Sequence[Input]], reader: MediaReader, frames: int, hold: Hold
) -> list[list[str | Media]]:
    """Read the images and videos of each message's parts, all at the same time, and count their pixels undecoded.

    `frames`: uniform frames of a video. ApiError names a part that is bad. Raises what `hold` raises.
    """
    deadline = time.monotonic() + reader.limits.seconds

    async def read(kind: Kind, value: str, name: str) -> str | Media:
        if kind == "text":
            return value
        try:
            left = max(0.0, deadline - time.monotonic()) if is_address(kind, value) else None
            async with asyncio.timeout(left):
                media, size, pixels = await reader.read(kind, value, deadline, partial(_measure, frames=frames))
            hold(size, pixels)
            return media
        except TimeoutError:
            raise too_slow(reader.limits, name) from None
        except InputError as error:
            raise _bad_part(error, name) from None

    works = [
        read(*part, part_name(row, column)) for row, message in enumerate(parts) for column, part in enumerate(message)
    ]
    contents = iter(await gather_results(works))
    return [[next(contents) for _ in message] for message in parts]


def _measure(media: Media, frames: int) -> tuple[Media, int, int]:
    """Return an image or video, its bytes, and its pixels, those of a video's frames together, by the header."""
    assert isinstance(media.payload, bytes)
    if media.kind == "image":
        return media, len(media.payload), count_pixels(media.payload, media.name)
    from perception_encoder.preprocess.video import frame_pixels  # FFmpeg, which images do not need

    return media, len(media.payload), min(frame_pixels(media.payload, media.name) * frames, MAX_PIXELS)


def open_conversation(roles: Sequence[Role], contents: Sequence[Sequence[str | Media]], frames: int) -> list[Message]:
    """Decode the images and videos of messages; ApiError names a part that is bad."""

    def opened(part: str | Media, name: str) -> ContentPart:
        if isinstance(part, str):
            return part
        try:
            with DECODING.admission() as admit:
                return open_media(part, frames, admit)
        except InputError as error:
            raise _bad_part(error, name) from None

    return [
        Message(role, tuple(opened(part, part_name(row, column)) for column, part in enumerate(parts)))
        for row, (role, parts) in enumerate(zip(roles, contents, strict=True))
    ]


def _bad_part(error: InputError, name: str) -> ApiError:
    return ApiError(input_refused(error, name).status, f"{name}: {error}", name)


async def _last(pieces: AsyncGenerator[str | Reply, None]) -> Reply:
    async with aclosing(pieces):
        async for piece in pieces:
            if isinstance(piece, Reply):
                return piece
    raise AssertionError("a stream ends with a Reply")


def _head(model: str, kind: str) -> dict[str, Any]:
    note = demo_note(model)
    head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}
    return {**head, **({"note": note} if note else {})}


def _usage(reply: Reply) -> dict[str, int]:
    prompt, answer = reply.prompt_tokens, reply.tokens
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}


def _finish(reply: Reply) -> str:
    return "stop" if reply.finished else "length"


def _completion(model: str, reply: Reply) -> dict[str, Any]:
    message = {"role": "assistant", "content": reply.text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish(reply)}
    return {**_head(model, "chat.completion"), "choices": [choice], "usage": _usage(reply)}


async def _events(
    model: str, first: str | Reply, pieces: AsyncGenerator[str | Reply, None], usage: bool
) -> AsyncIterator[bytes]:
    """Yield the server-sent events of an answer; an error becomes the last one."""
    head = {**_head(model, "chat.completion.chunk"), **({"usage": None} if usage else {})}

    def event(delta: dict[str, str], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return _encode({**head, "choices": [choice]})

    yield event({"role": "assistant", "content": ""})
    head.pop("note", None)  # once is enough
    piece = first
    try:
        while not isinstance(piece, Reply):
            yield event({"content": piece})
            piece = await anext(pieces)
    except ApiError as error:
        yield _encode(error.body())
        return
    yield event({}, _finish(piece))
    if usage:
        yield _encode({**head, "choices": [], "usage": _usage(piece)})
    yield b"data: [DONE]\n\n"


def _encode(data: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(data)}\n\n".encode()
