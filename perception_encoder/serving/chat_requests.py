"""Requests of OpenAI's chat API, validated by pydantic; images and videos are those of vLLM's dialect."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from perception_encoder.errors import ConfigError
from perception_encoder.preprocess.conversation import Role, Sampling
from perception_encoder.serving.parsing import ApiError, FirstError, shortened
from perception_encoder.serving.requests import (
    ApiConfig,
    ChatMessage,
    Input,
    MediaAddress,
    MessagePart,
    is_named,
    unknown_model,
)

_STOPS = 4  # as many as OpenAI takes
ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "user",
    "function": "user",
}
"""Each role of a request, and the role that the model knows; what a tool answered is told as the user's."""
_PARTS = "a part is a text, an image_url {url} or a video_url {url}"


@dataclass(kw_only=True)
class StreamOptions:
    """Options of a streamed answer."""

    include_usage: bool | None = None
    """Send the numbers of tokens before the end."""


@dataclass(kw_only=True)
class ChatRequest:
    """The JSON of a request; fields that are not here are ignored."""

    __pydantic_config__: ClassVar = {"strict": True}
    messages: Annotated[list[ChatMessage], FirstError()]
    model: Any = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    """The newer name; it counts if both are given."""
    temperature: float | None = None
    top_p: float | None = None
    stop: str | Annotated[list[str], FirstError()] | None = None
    seed: int | None = None
    n: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    tools: Any = None
    tool_choice: Any = None
    functions: Any = None
    function_call: Any = None
    response_format: Any = None
    logprobs: Any = None
    logit_bias: Any = None


ALLOWED = {
    "": "the body must be a JSON object",
    "messages": f"messages must be a list of {{role, content}}; the content is a text or a list of parts, and {_PARTS}",
    "max_tokens": "it must be a whole number, at least 1",
    "max_completion_tokens": "it must be a whole number, at least 1",
    "temperature": "it must be from 0 to 2",
    "top_p": "it must be above 0 and at most 1",
    "presence_penalty": "it must be from -2 to 2",
    "frequency_penalty": "it must be from -2 to 2",
    "stop": f"it must be a text, or a list of at most {_STOPS} texts",
    "seed": "it must be a whole number",
    "n": "it must be 1",
    "stream": "it must be true or false",
    "stream_options": "it must be {include_usage: true or false}",
}
"""What each field of a request must be: see `parse_body`."""
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"}, "text"),
    "logprobs": (False,),
    "logit_bias": ({},),
}
"""Fields that would change the answer if they were supported, and the values that do not."""


def check_chat(request: ChatRequest, config: ApiConfig, *names: str) -> tuple[list[list[Input]], Sampling]:
    """Check a request for the model of some names; return the parts of each message, and how to sample.

    Raises ApiError.
    """
    if not is_named(request.model, *names):
        raise unknown_model(request.model, names[0])
    unused = {"tools"} if request.tool_choice == "none" else set[str]()
    unused |= {"functions"} if request.function_call == "none" else set()
    for name, harmless in _UNSUPPORTED.items():
        value = getattr(request, name)
        if name not in unused and value is not None and value not in harmless:
            raise ApiError(400, f"{name} is {shortened(value)}; this server does not support it", name)
    if request.n not in (None, 1):
        raise ApiError(400, f"n is {request.n}; {ALLOWED['n']}", "n")
    return _check_messages(request.messages, config), _sampling(request)


def _sampling(request: ChatRequest) -> Sampling:
    stops = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ())
    if len(stops) > _STOPS or not all(stops):
        raise ApiError(400, f"stop is {shortened(request.stop)}; {ALLOWED['stop']}, none of them empty", "stop")
    seed = secrets.randbits(63) if request.seed is None else request.seed
    if not -(2**63) <= seed < 2**63:
        raise ApiError(400, f"seed is {shortened(seed)}; it must have at most 64 bits", "seed")
    limits = ("max_completion_tokens", "max_tokens")
    limit = next((name for name in limits if getattr(request, name) is not None), None)
    penalties = {name: getattr(request, name) for name in ("presence_penalty", "frequency_penalty")}
    fields: dict[str, Any] = {"temperature": request.temperature, "top_p": request.top_p, **penalties}
    if limit is not None:
        fields["max_tokens"] = getattr(request, limit)
    chosen = {name: value for name, value in fields.items() if value is not None}
    try:
        return Sampling(**chosen, stop=stops, seed=seed, cut=False)
    except ConfigError as error:
        name = str(error).partition(" ")[0]
        raise ApiError(400, str(error), limit if name == "max_tokens" else name) from None


def _check_messages(messages: Sequence[ChatMessage], config: ApiConfig) -> list[list[Input]]:
    """Return the parts of each message: what each is, and its text, address or data URI."""
    if not messages:
        raise ApiError(400, ALLOWED["messages"], "messages")
    checked: list[list[Input]] = []
    for row, message in enumerate(messages):
        name = f"messages[{row}]"
        if message.role not in ROLES:
            reason = f"it must be one of {', '.join(ROLES)}"
            raise ApiError(400, f"{name}.role is {shortened(message.role)}; {reason}", f"{name}.role")
        if message.content is None or isinstance(message.content, str):
            checked.append([("text", message.content)] if message.content else [])
            continue
        parts = [_check_part(part, part_name(row, column)) for column, part in enumerate(message.content)]
        if ROLES[message.role] != "user" and any(kind != "text" for kind, _ in parts):
            raise ApiError(400, f"{name} is of the {message.role}; only the user's may hold images or videos", name)
        checked.append(parts)
    kinds = [kind for parts in checked for kind, _ in parts]
    if not kinds:
        raise ApiError(400, f"the messages have no content; {ALLOWED['messages']}", "messages")
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
    """What errors call a part of a message."""
    return f"messages[{row}].content[{column}]"


def _check_part(part: MessagePart, name: str) -> Input:
    match part:
        case MessagePart(type="text", text=str(text)):
            return "text", text
        case MessagePart(type="image_url", image_url=MediaAddress(url=url) | str(url)):
            return "image", url
        case MessagePart(type="video_url", video_url=MediaAddress(url=url) | str(url)):
            return "video", url
    raise ApiError(400, f"{name} is of type {shortened(part.type)}; {_PARTS}", name)
