"""OpenAI's chat API: `POST /v1/chat/completions`, answered by a language model, whole or streamed."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from perception_encoder.errors import ConfigError, ContextLengthError, InputError, PerceptionEncoderError
from perception_encoder.inference.media import Media, open_media
from perception_encoder.preprocess.budget import ByteBudget
from perception_encoder.preprocess.conversation import ContentPart, MediaPart, Message, Reply, Sampling
from perception_encoder.serving.batching import QueueFullError
from perception_encoder.serving.bodies import BodyReader, parse_content
from perception_encoder.serving.chat_requests import ALLOWED, ChatRequest, check_chat, part_name
from perception_encoder.serving.generation import GenerationQueue, Hold
from perception_encoder.serving.guard import check_key
from perception_encoder.serving.metrics import ApiMetrics
from perception_encoder.serving.parsing import ApiError, parse_body
from perception_encoder.serving.reading import MediaReader, input_refused, is_address, too_slow
from perception_encoder.serving.requests import ApiConfig, ChatMessage, Input
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
            pieces = self._pieces(self._model, parsed.messages, parts, sampling)
            if not parsed.stream:
                reply = await unless_gone(request, _last(pieces))
                return JSONResponse(_completion(self._model.name, reply))
            first = await unless_gone(request, first_piece(pieces))
        usage = bool(parsed.stream_options and parsed.stream_options.include_usage)
        return stream_response(_events(self._model.name, first, pieces, usage), pieces, "text/event-stream")

    async def _pieces(
        self,
        model: GenerationQueue,
        messages: Sequence[ChatMessage],
        parts: Sequence[Sequence[Input]],
        sampling: Sampling,
    ) -> AsyncGenerator[str | Reply, None]:
        """Yield the pieces of an answer and, last, the whole; raises ApiError."""
        try:
            with model.reserve() as hold:
                contents = await read_parts(parts, self._reader, self._config.frames, hold)
                conversation = [
                    Message(message.role, content)  # type: ignore[arg-type]  # a checked role
                    for message, content in zip(messages, contents, strict=True)
                ]
                async with aclosing(model.stream(conversation, sampling)) as stream:
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
) -> list[tuple[ContentPart, ...]]:
    """Read the images and videos of each message's parts, all at the same time; ApiError names a part that is bad.

    `frames`: uniform frames of a video. Raises what `hold` raises.
    """
    deadline = time.monotonic() + reader.limits.seconds

    def decode(media: Media, budget: ByteBudget) -> MediaPart:
        with budget.admission() as admit:
            opened = open_media(media, frames, admit)
        assert not isinstance(opened, str)
        return opened

    async def read(row: int, column: int) -> ContentPart:
        kind, value = parts[row][column]
        if kind == "text":
            return value
        try:
            left = max(0.0, deadline - time.monotonic()) if is_address(kind, value) else None
            async with asyncio.timeout(left):
                return hold(await reader.read(kind, value, deadline, decode))
        except TimeoutError:
            raise too_slow(reader.limits, part_name(row, column)) from None
        except InputError as error:
            refused = input_refused(error, part_name(row, column))
            raise ApiError(refused.status, f"{refused.parameter}: {error}", refused.parameter) from None

    try:
        async with asyncio.TaskGroup() as group:  # it cancels the others if one fails
            tasks = [
                [group.create_task(read(row, column)) for column in range(len(message))]
                for row, message in enumerate(parts)
            ]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [tuple(task.result() for task in message) for message in tasks]


async def _last(pieces: AsyncGenerator[str | Reply, None]) -> Reply:
    async with aclosing(pieces):
        async for piece in pieces:
            if isinstance(piece, Reply):
                return piece
    raise AssertionError("a stream ends with a Reply")


def _head(model: str, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}


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
