"""OpenAI's chat API: `POST /v1/chat/completions`, answered by an assistant, whole or streamed.

Requests are validated by pydantic; a `video_url` is a part like OpenAI's `image_url`.
"""

from __future__ import annotations

import json
import secrets
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from perception_encoder.errors import ConfigError, ContextLengthError, InputError, PerceptionEncoderError
from perception_encoder.models.registry import demo_note
from perception_encoder.preprocess.budget import DECODING, MAX_PIXELS
from perception_encoder.preprocess.conversation import ContentPart, Message, Reply, Role, Sampling
from perception_encoder.preprocess.image import count_pixels
from perception_encoder.preprocess.media import Kind, Media, open_media
from perception_encoder.serving.queues import GenerationQueue, Hold
from perception_encoder.serving.requests import (
    ApiConfig,
    Input,
    MediaReader,
    check_model_name,
    gather_results,
    input_refused,
)
from perception_encoder.web_server.http import (
    REQUEST,
    ApiError,
    BodyReader,
    FirstError,
    parse_body,
    shortened,
    stream_response,
    unless_gone,
    unsupported,
)

if TYPE_CHECKING:
    from fastapi import Request, Response

_STOPS = 4  # as many as OpenAI takes
ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "user",
}
"""Roles in requests → roles of the model; tools' answers are shown as the user's."""
_PARTS = "a part is a text {text}, an image_url {url} or a video_url {url}"


@dataclass(kw_only=True)
class MediaAddress:
    """A data URI or an http(s) address in a message."""

    url: str


@dataclass(kw_only=True)
class MessagePart:
    """A part of a message."""

    type: str
    text: str = ""
    image_url: MediaAddress | None = None
    video_url: MediaAddress | None = None


@dataclass(kw_only=True)
class ChatMessage:
    """A message of a chat."""

    role: str = "user"
    content: str | Annotated[list[MessagePart], FirstError()] | None = None


@dataclass(kw_only=True)
class StreamOptions:
    """Options of a streamed answer."""

    include_usage: bool | None = None
    """Send token counts before the end."""


@dataclass(kw_only=True)
class ChatRequest:
    """The JSON of a request."""

    __pydantic_config__: ClassVar = REQUEST
    messages: Annotated[list[ChatMessage], FirstError()]
    model: Any = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    """The newer name; it takes precedence."""
    temperature: float | None = None
    top_p: float | None = None
    stop: str | Annotated[list[str], FirstError()] | None = None
    seed: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    tools: Any = None
    """Supported only with the `tool_choice` "none"."""
    tool_choice: Any = None


_MESSAGES = f"messages must be a list of {{role, content}}; the content is a text or a list of parts, and {_PARTS}"
_STOP = f"it must be a string, or a list of at most {_STOPS} strings, none of them empty"
_HARMLESS: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "parallel_tool_calls": (True, False),
    "response_format": ({"type": "text"}, "text"),
    "logprobs": (False,),
    "logit_bias": ({},),
}


_EXPECTED = {"messages": _MESSAGES, "stop": f"stop: {_STOP}"}
parse_chat = partial(parse_body, kind=ChatRequest, expected=_EXPECTED, harmless=_HARMLESS)


def check_chat(request: ChatRequest, config: ApiConfig, *names: str) -> tuple[list[list[Input]], Sampling]:
    """Check a request against the model's names and the limits; return each message's parts and the sampling."""
    check_model_name(request.model, *names)
    if request.tool_choice not in (None, "none", "auto"):
        raise unsupported("tool_choice", request.tool_choice)
    if request.tools and request.tool_choice != "none":
        raise unsupported("tools", request.tools)
    return _check_messages(request.messages, config), _sampling(request)


def _sampling(request: ChatRequest) -> Sampling:
    stops = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ())
    if len(stops) > _STOPS or not all(stops):
        raise ApiError(400, f"stop is {shortened(request.stop)}; {_STOP}", "stop")
    seed = secrets.randbits(63) if request.seed is None else request.seed
    if not -(2**63) <= seed < 2**63:
        raise ApiError(400, f"seed is {shortened(seed)}; it must have at most 64 bits", "seed")
    limit = "max_tokens" if request.max_completion_tokens is None else "max_completion_tokens"
    names = ("temperature", "top_p", "presence_penalty", "frequency_penalty")
    values: dict[str, Any] = {"max_tokens": getattr(request, limit), **{name: getattr(request, name) for name in names}}
    chosen = {name: value for name, value in values.items() if value is not None}
    try:
        return Sampling(**chosen, stop=stops, seed=seed, cut=False)
    except ConfigError as error:
        name = str(error).partition(" ")[0]
        raise ApiError(400, str(error), limit if name == "max_tokens" else name) from None


def _check_messages(messages: Sequence[ChatMessage], config: ApiConfig) -> list[list[Input]]:
    if not messages:
        raise ApiError(400, _MESSAGES, "messages")
    checked: list[list[Input]] = []
    for row, message in enumerate(messages):
        name = f"messages[{row}]"
        if message.role not in ROLES:
            reason = f"it must be one of {', '.join(ROLES)}"
            raise ApiError(400, f"{name}.role is {shortened(message.role)}; {reason}", f"{name}.role")
        if message.content is None or isinstance(message.content, str):
            checked.append([("text", message.content)] if message.content else [])
            continue
        parts: list[Input] = []
        for column, part in enumerate(message.content):
            address = {"image_url": part.image_url, "video_url": part.video_url}.get(part.type)
            if address is None and part.type != "text":
                part_of = part_name(row, column)
                raise ApiError(400, f"{part_of} is of type {shortened(part.type)}; {_PARTS}", part_of)
            kind: Kind = "image" if part.type == "image_url" else "video"
            parts.append((kind, address.url) if address else ("text", part.text))
        if ROLES[message.role] != "user" and any(kind != "text" for kind, _ in parts):
            raise ApiError(
                400, f"{name} has the role {message.role}; only the user's messages may contain images or videos", name
            )
        checked.append(parts)
    kinds = [kind for parts in checked for kind, _ in parts]
    if not kinds:
        raise ApiError(400, f"the messages have no content; {_MESSAGES}", "messages")
    files = len(kinds) - kinds.count("text")
    if files > config.files:
        reason = f"{files} images or videos; a conversation takes at most {config.files}"
        raise ApiError(400, reason, "messages")
    characters = sum(len(value) for parts in checked for kind, value in parts if kind == "text")
    if characters > config.conversation_characters:
        reason = f"the texts have {characters:,} characters; the limit is {config.conversation_characters:,}"
        raise ApiError(400, reason, "messages", "context_length_exceeded")
    return checked


def part_name(row: int, column: int) -> str:
    """Return the name of a part of a message in errors."""
    return f"messages[{row}].content[{column}]"


NO_MODEL = "this server has no chat model; start it with: pe serve --api --chat-model NAME"


async def answer_chat(
    request: Request, model: GenerationQueue | None, reader: MediaReader, bodies: BodyReader, config: ApiConfig
) -> Response:
    """Answer a request with a model, whole or streamed; ApiError, 404 without a `model`."""
    from fastapi.responses import JSONResponse

    if model is None:
        raise ApiError(404, NO_MODEL, "model", "model_not_found")
    async with bodies.read(request, parse_chat) as parsed:
        parts, sampling = check_chat(parsed, config, *model.names)
        roles = [ROLES[message.role] for message in parsed.messages]
        parsed.messages = []  # with their data URIs
        pieces = _pieces(model, reader, config.frames, roles, parts, sampling)
        del parts
        if not parsed.stream:
            reply = await unless_gone(request, _last(pieces))
            return JSONResponse(_completion(model.name, reply))
        first = await unless_gone(request, anext(pieces))
    usage = bool(parsed.stream_options and parsed.stream_options.include_usage)
    return stream_response(_events(model.name, first, pieces, usage), pieces, "text/event-stream")


async def _pieces(
    model: GenerationQueue,
    reader: MediaReader,
    frames: int,
    roles: Sequence[Role],
    parts: Sequence[Sequence[Input]],
    sampling: Sampling,
) -> AsyncGenerator[str | Reply, None]:
    try:
        with model.reserve() as hold:
            contents = await read_parts(parts, reader, frames, hold)
            del parts
            async with aclosing(model.stream(partial(open_conversation, roles, contents, frames), sampling)) as stream:
                async for piece in stream:
                    yield piece
    except ContextLengthError as error:
        raise ApiError(400, str(error), "messages", "context_length_exceeded") from None
    except ConfigError as error:
        raise ApiError(400, str(error), "messages") from None
    except PerceptionEncoderError as error:
        raise ApiError(500, str(error)) from None


async def read_parts(
    parts: Sequence[Sequence[Input]], reader: MediaReader, frames: int, hold: Hold
) -> list[list[str | Media]]:
    """Read all images and videos, and count their pixels without decoding them; ApiError names a bad part."""
    deadline = reader.deadline()

    async def read(kind: Kind, value: str, name: str) -> str | Media:
        if kind == "text":
            return value
        with _naming(name):
            media, size, pixels = await reader.read(kind, value, deadline, partial(_measure, frames=frames))
            hold(size, pixels)
        return media

    works = [
        read(*part, part_name(row, column)) for row, message in enumerate(parts) for column, part in enumerate(message)
    ]
    contents = iter(await gather_results(works))
    return [[next(contents) for _ in message] for message in parts]


def _measure(media: Media, frames: int) -> tuple[Media, int, int]:
    """Return an image or video, its size in bytes, and its pixels (over all frames of a video) from the header."""
    assert isinstance(media.payload, bytes)
    if media.kind == "image":
        return media, len(media.payload), count_pixels(media.payload, media.name)
    from perception_encoder.preprocess.video_file import frame_pixels  # FFmpeg, which images do not need

    return media, len(media.payload), min(frame_pixels(media.payload, media.name) * frames, MAX_PIXELS)


def open_conversation(roles: Sequence[Role], contents: Sequence[Sequence[str | Media]], frames: int) -> list[Message]:
    """Decode the images and videos of messages; ApiError names a bad part."""

    def opened(part: str | Media, name: str) -> ContentPart:
        if isinstance(part, str):
            return part
        with _naming(name), DECODING.admission() as admit:
            return open_media(part, frames, admit, served=True)

    return [
        Message(role, tuple(opened(part, part_name(row, column)) for column, part in enumerate(parts)))
        for row, (role, parts) in enumerate(zip(roles, contents, strict=True))
    ]


@contextmanager
def _naming(name: str) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise ApiError(input_refused(error, name).status, f"{name}: {error}", name) from None


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


def _completion(model: str, reply: Reply) -> dict[str, Any]:
    message = {"role": "assistant", "content": reply.text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop" if reply.finished else "length"}
    return {**_head(model, "chat.completion"), "choices": [choice], "usage": _usage(reply)}


async def _events(
    model: str, first: str | Reply, pieces: AsyncGenerator[str | Reply, None], usage: bool
) -> AsyncIterator[bytes]:
    """Yield an answer's server-sent events; an error becomes the last event."""
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
    yield event({}, "stop" if piece.finished else "length")
    if usage:
        yield _encode({**head, "choices": [], "usage": _usage(piece)})
    yield b"data: [DONE]\n\n"


def _encode(data: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(data)}\n\n".encode()
