"""Embedding requests, validated by pydantic: OpenAI's dialect with infinity's `modality`, and vLLM's `messages`."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar
from urllib.parse import urlsplit

from perception_encoder.errors import ConfigError, InputError, MediaTooLargeError, detached
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.fetch import FetchLimits, fetch, is_url
from perception_encoder.inference.media import Kind, Media, resolve
from perception_encoder.inference.pipeline import Feature
from perception_encoder.models.registry import same_name
from perception_encoder.preprocess.source import IMAGE_SUFFIXES, VIDEO_SUFFIXES, escape_name
from perception_encoder.serving.http import BODIES_BYTES, REQUEST, ApiError, FirstError, parse_body, shortened

if TYPE_CHECKING:
    from perception_encoder.models.external import Role

_UNNAMED = (None, "", "default/not-specified")  # the last is infinity's
_CHARACTERS, _ALL_CHARACTERS = 20_000, 2_000_000  # of one text, and of all texts of a request
_DATA_URI = re.compile(r"\s*data:(?:([\w.+-]+)/[\w.+-]+[;,]|;base64,)", re.IGNORECASE)
_DATA_KINDS: dict[str, Kind] = {"image": "image", "video": "video"}
_ADDRESS = re.compile(r"\s*https?://\S+\s*", re.IGNORECASE)
_FETCHERS, _DECODERS = 16, 2  # threads: downloads take seconds, decoding takes a core
T = TypeVar("T")
Input = tuple[Kind, str]
"""The kind of an input, with its text, address or data URI."""
Value = str | dict[str, Any]
"""An input as it is sent: a text, an address or a data URI; or Jina's {"text": …}, {"image": …} or {"video": …}."""


@dataclass(frozen=True, kw_only=True)
class ApiConfig:
    """Limits and key of the server."""

    key: str | None = None
    """Clients must send it as `Authorization: Bearer KEY`; None requires nothing."""
    origins: tuple[str, ...] = ()
    """Origins whose pages may use the API (CORS), such as "https://app.example"."""
    source: str = ""
    """Another name of the model, as the user gave it."""
    body_bytes: int = 32 << 20
    """Maximum size of a request."""
    bodies_bytes: int = BODIES_BYTES
    """Maximum size of all requests in progress together; above it the answer is 429."""
    body_seconds: float = 30.0
    """Maximum time to receive a request."""
    inputs: int = 2048
    """Maximum number of inputs of a request, as at OpenAI."""
    files: int = 32
    """Maximum number of images and videos of a request."""
    frames: int = 8
    """Number of uniform frames per video in a conversation."""
    conversation_characters: int = 200_000
    """Maximum length of all texts of a conversation together."""
    waiting: int = 4096
    """Maximum number of waiting inputs over all requests; above it the answer is 429."""
    fetch: FetchLimits = field(default_factory=lambda: FetchLimits(max_bytes=32 << 20, seconds=20.0))
    """Limits of downloads; `seconds` covers all addresses of a request."""


@dataclass(kw_only=True)
class MediaAddress:
    """An http(s) address or data URI in a message."""

    url: str


@dataclass(kw_only=True)
class MessagePart:
    """A part of a message."""

    type: str
    text: str = ""
    image_url: MediaAddress | str | None = None
    video_url: MediaAddress | str | None = None


@dataclass(kw_only=True)
class ChatMessage:
    """A message of a chat."""

    role: str = "user"
    content: str | Annotated[list[MessagePart], FirstError()] | None = None


@dataclass(kw_only=True)
class EmbeddingRequest:
    """The JSON of a request."""

    __pydantic_config__: ClassVar = REQUEST
    model: Any = None
    input: Value | Annotated[list[Value], FirstError()] | None = None
    """One input or several; strings are of the kind `modality`, if it is given."""
    messages: Annotated[list[ChatMessage], FirstError()] | None = None
    modality: Kind | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Any = None
    """Number of dimensions, at most the model's; None and 0 mean all."""
    layer: int | None = None
    pool: Literal["attn", "cls", "mean"] | None = None
    """See `Encoder.feature`; "tokens" gives several vectors, for which the answer has no place."""
    input_type: Literal["query", "document"] | None = None
    """How a model that has prompts or parts for either encodes the input, by default as a document; Voyage's name."""


_ALLOWED = {
    "": "the body must be a JSON object",
    "input": "input must be a string or a list of strings, not token ids (in LangChain's OpenAIEmbeddings: "
    "check_embedding_ctx_length=False)",
    "messages": "messages must hold one part: a text, an image_url {url} or a video_url {url}",
    "modality": "it must be 'text', 'image' or 'video'",
    "encoding_format": "it must be 'float' or 'base64'",
    "layer": "it must be an integer",
    "pool": "it must be 'attn', 'cls' or 'mean'",
    "input_type": "it must be 'query' or 'document'",
}
_HARMLESS: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("normalized", "truncate", "truncation"), (True,)),
    **dict.fromkeys(("embedding_type", "output_dtype"), ("float",)),
}
"""Values of Jina's and Voyage's fields that say what the server does anyway."""


def check_origins(values: Sequence[str]) -> tuple[str, ...]:
    """Return origins as browsers send them; ConfigError for one that is not an origin."""
    origins = tuple(value.strip().rstrip("/").lower() for value in values if value.strip())
    for origin in origins:
        if not re.fullmatch(r"https?://[^/?#@\s*]+", origin):
            raise ConfigError(f"{origin!r} is not an origin; give a scheme and a host, such as https://app.example")
    return origins


def parse_request(body: bytes | bytearray) -> EmbeddingRequest:
    """Parse a request for embeddings: see `parse_body`."""
    return parse_body(body, EmbeddingRequest, _ALLOWED, _HARMLESS)


def check_request(
    request: EmbeddingRequest, encoder: Encoder, config: ApiConfig, kind: Kind = "text"
) -> tuple[list[Input], list[Feature]]:
    """Check a request against the model and the limits; return its inputs, by default of kind `kind`, and features."""
    check_model(request.model, encoder, config)
    feature = _requested_feature(request, encoder)
    width = encoder.width(feature)
    dimensions = request.dimensions or width
    if type(dimensions) is not int or not 1 <= dimensions <= width:
        raise ApiError(400, f"dimensions is {shortened(dimensions)}; it must be 1 to {width}", "dimensions")
    if request.messages is not None:
        inputs = [_only_part(request.messages)]
        _check_texts(inputs, "input")
    else:
        if request.input is None:
            raise ApiError(400, _ALLOWED["input"], "input")
        inputs = read_inputs(request.input, "input", request.modality, kind)
    check_limits(inputs, encoder, config, "input")
    if feature.pool != "attn" and any(input_kind == "text" for input_kind, _ in inputs):
        parameter = "layer" if request.pool is None else "pool"
        raise ApiError(400, "texts have the model's own output only; omit layer and pool", parameter)
    return inputs, [for_role(feature, request.input_type, encoder)] * len(inputs)


def for_role(feature: Feature, role: Role, encoder: Encoder) -> Feature:
    """Return the feature of queries or documents, the same for a model that encodes both alike: they share a batch."""
    return replace(feature, role=role) if role and encoder.has_roles else feature


def _requested_feature(request: EmbeddingRequest, encoder: Encoder) -> Feature:
    try:
        return encoder.feature(request.layer, request.pool)
    except ConfigError as error:
        raise ApiError(400, str(error)[:200], "layer" if request.pool is None else "pool") from None


def read_inputs(
    values: Value | list[Value], parameter: str, modality: Kind | None = None, default: Kind = "text"
) -> list[Input]:
    """Return the inputs of a request's field `parameter`; ApiError for what is none.

    A string is of kind `modality`, or of its own (see `_media_kind`), or else of the `default` kind.
    """
    inputs: list[Input] = []
    for number, value in enumerate(values if isinstance(values, list) else [values]):
        if isinstance(value, str):
            kind = modality or _media_kind(value) or default
            inputs.append((kind, value if kind == "text" else value.strip()))
            continue
        try:
            kind, content = named_input(value)
        except ValueError:
            reason = "must have one of the fields text, image and video, a string"
            raise ApiError(400, f"{parameter} {number} {reason}", parameter) from None
        inputs.append((kind, content if kind == "text" else _as_address(content, kind)))
    _check_texts(inputs, parameter)
    return inputs


def named_input(value: dict[str, Any]) -> Input:
    """Return the input of Jina's {"text": …}, {"image": …} or {"video": …}; ValueError if it is none or several."""
    kinds: tuple[Kind, ...] = ("text", "image", "video")
    ((kind, content),) = [(kind, value[kind]) for kind in kinds if isinstance(value.get(kind), str)]
    return kind, content


def _as_address(content: str, kind: Kind) -> str:
    """Return an address or data URI; plain base64, as Jina's clients send it, becomes the latter."""
    content = content.strip()
    plain = content and not content.startswith("data:") and not is_url(content)
    return f"data:{kind};base64,{content}" if plain else content


def _check_texts(inputs: Sequence[Input], parameter: str) -> None:
    """Raise ApiError for a text that is a data URI or the address of an image or video."""
    for number, (kind, value) in enumerate(inputs):
        if kind == "text" and (_DATA_URI.match(value) or _media_kind(value)):
            reason = f"{parameter} {number} is a data URI or the address of a file, not a text"
            how = "set modality to 'image' or 'video', or send it as {\"image\": …} or {\"video\": …}"
            raise ApiError(400, f"{reason}; {how}", "modality" if parameter == "input" else parameter)


def _media_kind(value: str) -> Kind | None:
    """Return the kind of a data URI or address by its type or suffix; None if unknown."""
    if match := _DATA_URI.match(value):
        return _DATA_KINDS.get((match[1] or "").lower())
    if not _ADDRESS.fullmatch(value):
        return None
    suffix = PurePosixPath(urlsplit(value.strip()).path).suffix.lower()
    return "image" if suffix in IMAGE_SUFFIXES else "video" if suffix in VIDEO_SUFFIXES else None


def check_model(name: Any, encoder: Encoder, config: ApiConfig) -> None:
    """Raise ApiError 404 if a request names another model."""
    if not is_named(name, encoder.name, config.source) and not (
        isinstance(name, str) and same_name(name, encoder.name)
    ):
        raise unknown_model(name, encoder.name)


def is_named(name: Any, *names: str) -> bool:
    """Return whether a request names one of these models or none."""
    return name is None or (isinstance(name, str) and name in (*_UNNAMED, *names))


def unknown_model(name: Any, present: str) -> ApiError:
    """Return the error for a model that this server does not have."""
    message = f"this server has no model {shortened(name)}; it has {present!r}"
    return ApiError(404, message, "model", "model_not_found")


def _only_part(messages: Sequence[ChatMessage]) -> Input:
    parts: list[MessagePart] = []
    for message in messages:
        if message.role == "user":
            content = message.content
            parts += [MessagePart(type="text", text=content)] if isinstance(content, str) else content or []
    inputs = [part_input(part) for part in parts if part.type != "text" or part.text.strip()]
    if len(inputs) == 1 and inputs[0] is not None:
        return inputs[0]
    raise ApiError(400, _ALLOWED["messages"], "messages")


def part_input(part: MessagePart) -> Input | None:
    """Return the text, address or data URI of a message's part; None for a part of another type."""
    match part:
        case MessagePart(type="text", text=text):
            return "text", text
        case MessagePart(type="image_url", image_url=MediaAddress(url=url) | str(url)):
            return "image", url
        case MessagePart(type="video_url", video_url=MediaAddress(url=url) | str(url)):
            return "video", url
    return None


def check_limits(inputs: Sequence[Input], encoder: Encoder, config: ApiConfig, parameter: str) -> None:
    """Raise ApiError for too many inputs, for too long ones, and for texts that the model does not read."""
    lengths = [len(value) for kind, value in inputs if kind == "text"]
    files, longest, total = len(inputs) - len(lengths), max(lengths, default=0), sum(lengths)
    checks = (
        (1 <= len(inputs) <= config.inputs, f"{len(inputs)} inputs; a request takes 1 to {config.inputs}"),
        (all(value.strip() for kind, value in inputs if kind != "text"), "an input is empty"),
        (files <= config.files, f"{files} images or videos; a request takes at most {config.files}"),
        (not lengths or encoder.reads_texts, f"{encoder.name} has no text tower; it takes images and videos"),
        (not files or encoder.reads_images, f"{encoder.name} takes texts only"),
        (longest <= _CHARACTERS, f"a text has more than {_CHARACTERS:,} characters, the limit"),
        (total <= _ALL_CHARACTERS, f"the texts have more than {_ALL_CHARACTERS:,} characters, the limit"),
    )
    for passed, message in checks:
        if not passed:
            raise ApiError(400, message, parameter)


class MediaReader:
    """Downloads and decodes images and videos in threads; all methods must be called on one event loop."""

    def __init__(self, limits: FetchLimits) -> None:
        self.limits = limits
        self._fetchers = ThreadPoolExecutor(_FETCHERS, "fetch")
        self._fetching = asyncio.Semaphore(_FETCHERS)
        self._decoders = ThreadPoolExecutor(_DECODERS, "decode")

    async def read(self, kind: Kind, value: str, deadline: float, decode: Callable[[Media], T]) -> T:
        """Return `decode` applied to the image or video at an address or in a data URI; raises InputError.

        An address is fetched until `deadline`, of `time.monotonic`.
        """
        if not is_address(kind, value):
            return await self._decode(lambda: read_data_uri(kind, value), decode)
        async with self._fetching:  # held until it is decoded, which bounds the downloads in memory
            loop = asyncio.get_running_loop()
            content = await loop.run_in_executor(self._fetchers, fetch, value, self.limits, deadline)
            # bytes, never a path, whatever the address looks like
            return await self._decode(lambda: resolve(content, escape_name(value), kind=kind), decode)

    async def _decode(self, resolved: Callable[[], Media], decode: Callable[[Media], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._decoders, lambda: decode(resolved()))


async def gather_results(works: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Return all results in order; the first error cancels the others and frees their results."""
    tasks: list[asyncio.Task[T]] = []
    failed: list[Exception] = []
    try:
        async with asyncio.TaskGroup() as group:
            tasks += [group.create_task(work) for work in works]
        return [task.result() for task in tasks]
    except ExceptionGroup as errors:
        failed.append(detached(errors.exceptions[0]))
    tasks.clear()  # an error holds this frame
    raise failed.pop()


def is_address(kind: Kind, value: str) -> bool:
    """Return whether an input must be fetched; InputError if media are neither an address nor a data URI."""
    if kind == "text" or value.startswith("data:"):
        return False
    if not is_url(value) or not value.startswith(("http://", "https://")):
        raise InputError(value[:60], "is neither an http(s) address nor a data URI")
    return True


def read_data_uri(kind: Kind, value: str) -> Media:
    """Return the image or video in a data URI; raises InputError."""
    head, comma, data = value.partition(",")
    name = f"{head[:60]},…"
    if not comma or not head.endswith(";base64"):
        raise InputError(name, "is not a base64 data URI")
    try:
        content = base64.b64decode(data, validate=True)
    except ValueError:
        raise InputError(name, "is not valid base64") from None
    return resolve(content, name, kind=kind)


def input_refused(error: InputError, parameter: str) -> ApiError:
    """Return the error for a bad image or video."""
    return ApiError(413 if isinstance(error, MediaTooLargeError) else 400, str(error), parameter)


def too_slow(limits: FetchLimits, parameter: str) -> ApiError:
    """Return the error for addresses that took too long."""
    return ApiError(413, f"the addresses took more than {limits.seconds:g} s in all, the limit", parameter)
