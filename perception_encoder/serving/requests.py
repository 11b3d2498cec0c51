"""Requests to embed and to rerank, validated by pydantic.

An input is a text, or an object {"text": …}, {"image": …} or {"video": …}; media are data URIs or, if the server allows
them, addresses.
"""

from __future__ import annotations

import asyncio
import base64
import re
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar
from urllib.parse import urlsplit

from perception_encoder.errors import ConfigError, InputError, MediaTooLargeError, detached
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.feature import Feature
from perception_encoder.models.registry import same_name
from perception_encoder.preprocess.fetch import FetchLimits, fetch, is_url
from perception_encoder.preprocess.media import Kind, Media, resolve
from perception_encoder.preprocess.source import IMAGE_SUFFIXES, VIDEO_SUFFIXES, escape_name
from perception_encoder.web_server.http import BODIES_BYTES, REQUEST, ApiError, FirstError, parse_body, shortened

if TYPE_CHECKING:
    from perception_encoder.models.external import Role

_CHARACTERS, _ALL_CHARACTERS = 20_000, 2_000_000  # of one text, and of all texts of a request
_DATA_URI = re.compile(r"\s*data:(?:([\w.+-]+)/[\w.+-]+[;,]|;base64,)", re.IGNORECASE)
_ADDRESS = re.compile(r"\s*https?://\S+\s*", re.IGNORECASE)
_FETCHERS, DECODERS = 16, 2  # threads: downloads take seconds, decoding takes a core
T = TypeVar("T")
Input = tuple[Kind, str]
"""The kind of an input, with its text, address or data URI."""
Value = str | dict[str, Any]
"""An input as it is sent."""


@dataclass(frozen=True, kw_only=True)
class ApiConfig:
    """What the API answers, and its limits."""

    key: str | None = None
    """Clients must send it as `Authorization: Bearer KEY`; None requires nothing. Servers set it."""
    chat_model: str | None = None
    """Model of /v1/chat/completions: a name that `load_assistant` takes, loaded at the first request."""
    origins: tuple[str, ...] = ()
    """Origins whose pages may use the API (CORS), such as "https://app.example"."""
    source: str = ""
    """Another name of the model, as the user gave it. Servers set it."""
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
    allow_urls: bool = False
    """Fetch images and videos from public addresses that a client names."""
    fetch: FetchLimits = field(default_factory=lambda: FetchLimits(max_bytes=32 << 20, seconds=20.0))
    """Limits of downloads; `seconds` covers all addresses of a request."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "origins", _as_sent(self.origins))


@dataclass(kw_only=True)
class EmbeddingRequest:
    """The JSON of a request for embeddings."""

    __pydantic_config__: ClassVar = REQUEST
    model: Any = None
    input: Value | Annotated[list[Value], FirstError()] | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Any = None
    """Number of dimensions, at most the model's; None and 0 mean all."""
    layer: int | None = None
    pool: Literal["attn", "cls", "mean"] | None = None
    """See `Encoder.feature`; "tokens" gives several vectors, for which the answer has no place."""
    input_type: Literal["query", "document"] | None = None
    """How a model that has prompts or parts for either encodes the input, by default as a document."""


@dataclass(kw_only=True)
class RerankRequest:
    """The JSON of a request to rank documents."""

    __pydantic_config__: ClassVar = REQUEST
    model: Any = None
    query: Value | None = None
    documents: Annotated[list[Value], FirstError()] | None = None
    top_n: int | None = None
    """Number of documents to return; None means all."""
    return_documents: bool | None = None
    """Whether results hold the documents."""


_VALUE = '{"text": …}, {"image": …} or {"video": …}'
_EXPECTED = {
    "input": f"input must be a string, {_VALUE}, or a list of these, not token ids (in LangChain's OpenAIEmbeddings: "
    "check_embedding_ctx_length=False)",
    "query": f"query must be a string, {_VALUE}",
    "documents": f"documents must be a list of strings, {_VALUE}",
}
parse_request = partial(parse_body, kind=EmbeddingRequest, expected=_EXPECTED)
parse_rerank = partial(parse_body, kind=RerankRequest, expected=_EXPECTED)


def _as_sent(values: Sequence[str]) -> tuple[str, ...]:
    """Return origins as browsers send them; ConfigError for one that is not an origin."""
    origins = tuple(value.strip().rstrip("/").lower() for value in values if value.strip())
    for origin in origins:
        if not re.fullmatch(r"https?://[^/?#@\s*]+", origin):
            raise ConfigError(f"{origin!r} is not an origin; give a scheme and a host, such as https://app.example")
    return origins


def check_request(request: EmbeddingRequest, encoder: Encoder, config: ApiConfig) -> tuple[list[Input], list[Feature]]:
    """Check a request against the model and the limits; return its inputs and their features."""
    check_model(request.model, encoder, config)
    try:
        feature = encoder.feature(request.layer, request.pool)
    except ConfigError as error:
        raise ApiError(400, str(error)[:200], "layer" if request.pool is None else "pool") from None
    width = encoder.width(feature)
    dimensions = request.dimensions or width
    if type(dimensions) is not int or not 1 <= dimensions <= width:
        raise ApiError(400, f"dimensions is {shortened(dimensions)}; it must be 1 to {width}", "dimensions")
    if request.input is None:
        raise ApiError(400, _EXPECTED["input"], "input")
    inputs = _read_inputs(request.input, "input", config.inputs)
    _check_limits(inputs, encoder, config, "input")
    if feature.pool != "attn" and any(kind == "text" for kind, _ in inputs):
        parameter = "layer" if request.pool is None else "pool"
        raise ApiError(400, "texts have the model's own output only; omit layer and pool", parameter)
    return inputs, [for_role(feature, request.input_type, encoder)] * len(inputs)


def check_rerank(request: RerankRequest, encoder: Encoder, config: ApiConfig) -> tuple[list[Input], list[Feature]]:
    """Check a request against the model and the limits; return query and documents, and their features."""
    check_model(request.model, encoder, config)
    if request.query is None:
        raise ApiError(400, _EXPECTED["query"], "query")
    if not request.documents:
        raise ApiError(400, _EXPECTED["documents"], "documents")
    if request.top_n is not None and request.top_n < 1:
        raise ApiError(400, f"top_n is {request.top_n}; it must be an integer of at least 1"[:200], "top_n")
    query = _read_inputs(request.query, "query", 1)
    inputs = [*query, *_read_inputs(request.documents, "documents", config.inputs - 1)]
    _check_limits(inputs, encoder, config, "documents")
    feature = encoder.feature()
    return inputs, [for_role(feature, "query", encoder), *[feature] * len(request.documents)]


def for_role(feature: Feature, role: Role, encoder: Encoder) -> Feature:
    """Return the feature of queries or documents, the same for a model that encodes both alike: they share a batch."""
    return replace(feature, role=role) if role and encoder.towers.has_roles else feature


def _read_inputs(values: Value | list[Value], parameter: str, maximum: int) -> list[Input]:
    """Return the inputs of a request's field `parameter`.

    Raises ApiError for too many, for an unknown form, for an empty or too long text, or for media sent as a text.
    """
    inputs: list[Input] = []
    values = values if isinstance(values, list) else [values]
    if not 1 <= len(values) <= maximum:
        raise ApiError(400, f"{parameter} has {len(values)} items; it takes 1 to {maximum}", parameter)
    for number, value in enumerate(values):
        content = {"text": value} if isinstance(value, str) else value
        match list(content.items()):
            case [("text", str(text))]:
                if not text or len(text) > _CHARACTERS:
                    reason = f"has more than {_CHARACTERS:,} characters, the limit" if text else "is empty"
                    raise ApiError(400, f"{parameter} {number} {reason}", parameter)
                if _DATA_URI.match(text) or _is_media_address(text):
                    reason = f"{parameter} {number} is a data URI or the address of a file, not a text"
                    raise ApiError(400, f'{reason}; send {{"image": …}} or {{"video": …}}', parameter)
                inputs.append(("text", text))
            case [("image" | "video" as kind, str(address))]:
                inputs.append((kind, address.strip()))
            case _:
                found = ", ".join(sorted(content)) or "none"
                reason = f"{parameter} {number} must have one of the fields text, image and video, a string"
                raise ApiError(400, f"{reason}; it has {shortened(found)}", parameter)
    return inputs


def _is_media_address(text: str) -> bool:
    if not _ADDRESS.fullmatch(text):
        return False
    return PurePosixPath(urlsplit(text.strip()).path).suffix.lower() in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)


def check_model(name: Any, encoder: Encoder, config: ApiConfig) -> None:
    """Raise ApiError 404 if a request names another model."""
    if not isinstance(name, str) or not same_name(name, encoder.name):
        check_model_name(name, encoder.name, config.source)


def check_model_name(name: Any, *names: str) -> None:
    """Raise ApiError 404 unless a request names one of these models or none."""
    if name not in (None, "", *names):
        message = f"this server has no model {shortened(name)}; it has {names[0]!r}"
        raise ApiError(404, message, "model", "model_not_found")


def _check_limits(inputs: Sequence[Input], encoder: Encoder, config: ApiConfig, parameter: str) -> None:
    lengths = [len(value) for kind, value in inputs if kind == "text"]
    files, total = len(inputs) - len(lengths), sum(lengths)
    checks = (
        (all(value.strip() for kind, value in inputs if kind != "text"), "an input is empty"),
        (files <= config.files, f"{files} images or videos; a request takes at most {config.files}"),
        (not lengths or encoder.reads_texts, f"{encoder.name} has no text tower; it takes images and videos"),
        (not files or encoder.reads_images, f"{encoder.name} takes texts only"),
        (total <= _ALL_CHARACTERS, f"the texts have more than {_ALL_CHARACTERS:,} characters, the limit"),
    )
    for passed, message in checks:
        if not passed:
            raise ApiError(400, message, parameter)


class MediaReader:
    """Downloads and decodes images and videos in threads; all methods must be called on one event loop."""

    def __init__(self, config: ApiConfig) -> None:
        self._limits, self._allow_urls = config.fetch, config.allow_urls
        self._fetchers = ThreadPoolExecutor(_FETCHERS, "fetch")
        self._fetching = asyncio.Semaphore(_FETCHERS)
        self._decoders = ThreadPoolExecutor(DECODERS, "decode")

    def deadline(self) -> float:
        """Return when all addresses of a request that begins now must have been fetched, of `time.monotonic`."""
        return time.monotonic() + self._limits.seconds

    async def read(self, kind: Kind, value: str, deadline: float, decode: Callable[[Media], T]) -> T:
        """Return `decode` of the image or video in a data URI or, until a deadline, at an address; or InputError."""
        if value.startswith("data:"):
            return await self.decode(lambda: read_data_uri(kind, value), decode)
        if not is_url(value) or not value.startswith(("http://", "https://")):
            raise InputError(value[:60], "is neither an http(s) address nor a data URI")
        name = escape_name(value)
        if not self._allow_urls:
            raise InputError(name, "is not fetched; send a data URI, or start the server with --allow-urls")
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                async with self._fetching:  # held until it is decoded, which bounds the downloads in memory
                    loop = asyncio.get_running_loop()
                    content = await loop.run_in_executor(self._fetchers, fetch, value, self._limits, deadline)
                    # bytes, never a path, whatever the address looks like
                    return await self.decode(lambda: resolve(content, name, kind=kind), decode)
        except TimeoutError:
            reason = f"took more than {self._limits.seconds:g} s with the request's other addresses, the limit"
            raise MediaTooLargeError(name, reason) from None

    async def decode(self, resolved: Callable[[], Media], decode: Callable[[Media], T]) -> T:
        """Return `decode` of media, in a thread."""
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
