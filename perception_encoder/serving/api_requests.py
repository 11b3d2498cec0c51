"""Requests to the embedding server, checked: OpenAI's dialect, as infinity extends it, and vLLM's."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from perception_encoder.errors import InputError
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.fetch import FetchLimits, is_url
from perception_encoder.inference.media import Kind, Media, resolve
from perception_encoder.models.registry import canonical_name
from perception_encoder.preprocess.tokenizer import END, START, Tokenizer

_UNNAMED = (None, "", "default/not-specified")  # the last is infinity's
_MOST_VALUES, _MOST_LISTS = 500_000, 20_000  # of a body: they tell how long parsing it holds up everything else


@dataclass(frozen=True, kw_only=True)
class ApiConfig:
    """What the server accepts."""

    key: str | None = None
    """What clients must send as `Authorization: Bearer KEY`; None asks for nothing."""
    source: str = ""
    """Another name for the model: the one that the user gave."""
    body_bytes: int = 32 << 20
    """Of one request."""
    bodies_bytes: int = 256 << 20
    """Of all requests that are being answered; beyond it the answer is 429."""
    body_seconds: float = 30.0
    """In which a request must have arrived."""
    inputs: int = 2048
    """Of one request; OpenAI allows as many."""
    files: int = 32
    """Pictures and videos of one request."""
    characters: int = 20_000
    """Of one text."""
    all_characters: int = 2_000_000
    """Of all texts of a request."""
    waiting: int = 4096
    """Inputs of all requests that may wait; beyond it the answer is 429."""
    fetch: FetchLimits = field(default_factory=lambda: FetchLimits(max_bytes=32 << 20, seconds=20.0))
    """`seconds` are for all addresses of a request together."""


class ApiError(Exception):
    """A request that cannot be answered, in OpenAI's form."""

    def __init__(self, status: int, message: str, parameter: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.parameter, self.code = status, message, parameter, code or status

    def body(self) -> dict[str, Any]:
        """The answer's JSON."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": self.message, "type": kind, "param": self.parameter, "code": self.code}}


@dataclass(frozen=True, kw_only=True)
class EmbeddingRequest:
    """A request, checked."""

    inputs: list[tuple[Kind, str]]
    """What each is, and the text, address or data URI."""
    encoding: Literal["float", "base64"]
    dimensions: int


def parse_json(body: bytes) -> Any:
    """A body's value; ApiError if it is not JSON, or has so many values that parsing it would hold up all others."""
    if body.count(b",") + body.count(b"\\") > _MOST_VALUES or body.count(b"[") + body.count(b"{") > _MOST_LISTS:
        limits = f"{_MOST_VALUES:,} values and {_MOST_LISTS:,} lists and objects"
        raise ApiError(400, f"the body has more than the limit: {limits}")
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise ApiError(400, "the body is not JSON") from None


def parse_request(body: Any, encoder: Encoder, config: ApiConfig) -> EmbeddingRequest:
    """Check a request's JSON; ApiError if it is not what the two dialects say."""
    if not isinstance(body, dict):
        raise ApiError(400, "the body must be a JSON object")
    check_model(body.get("model"), encoder, config)
    encoding = body.get("encoding_format", "float")
    if encoding not in ("float", "base64"):
        raise ApiError(400, f"encoding_format is {_shown(encoding)}; it must be 'float' or 'base64'", "encoding_format")
    dimensions = body.get("dimensions") or encoder.dimension
    if type(dimensions) is not int or not 1 <= dimensions <= encoder.dimension:
        raise ApiError(400, f"dimensions is {_shown(dimensions)}; it must be 1 to {encoder.dimension}", "dimensions")
    inputs = [_part_of(body["messages"])] if "messages" in body else _inputs_of(body, encoder.tokenizer)
    _check_inputs(inputs, encoder, config)
    return EmbeddingRequest(inputs=inputs, encoding=encoding, dimensions=dimensions)


def check_model(name: Any, encoder: Encoder, config: ApiConfig) -> None:
    """ApiError 404 unless a name is one of the model's, or missing."""
    if name is None or (isinstance(name, str) and name in (*_UNNAMED, encoder.name, config.source)):
        return
    if not isinstance(name, str) or canonical_name(name) != encoder.name:
        message = f"there is no model {_shown(name)} here; this server has {encoder.name!r}"
        raise ApiError(404, message, "model", "model_not_found")


def _check_inputs(inputs: Sequence[tuple[Kind, str]], encoder: Encoder, config: ApiConfig) -> None:
    if not 1 <= len(inputs) <= config.inputs:
        raise ApiError(400, f"{len(inputs)} inputs; a request takes 1 to {config.inputs}", "input")
    if any(not value.strip() for _, value in inputs):
        raise ApiError(400, "an input is empty", "input")
    if not all(_is_unicode(value) for _, value in inputs):
        raise ApiError(400, "an input has half of a surrogate pair, which is not valid Unicode", "input")
    kinds = {kind for kind, _ in inputs}
    if kinds != {"text"} and len(inputs) > config.files:
        raise ApiError(400, f"{len(inputs)} images or videos; a request takes at most {config.files}", "input")
    if "text" in kinds and encoder.tokenizer is None:
        raise ApiError(400, f"{encoder.name} has no text tower; it takes images and videos", "input")
    lengths = [len(value) for kind, value in inputs if kind == "text"]
    if lengths and max(lengths) > config.characters:
        raise ApiError(400, f"a text has more than {config.characters:,} characters, the limit", "input")
    if sum(lengths) > config.all_characters:
        raise ApiError(400, f"the texts have more than {config.all_characters:,} characters, the limit", "input")


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
        return True
    except UnicodeEncodeError:
        return False


def _shown(value: Any) -> str:
    """A client's value in an error, cut."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _inputs_of(body: dict[str, Any], tokenizer: Tokenizer | None) -> list[tuple[Kind, str]]:
    kind = body.get("modality", "text")
    if kind not in ("text", "image", "video"):
        raise ApiError(400, f"modality is {_shown(kind)}; it must be 'text', 'image' or 'video'", "modality")
    given = body.get("input")
    if isinstance(given, list) and given and all(type(value) is int for value in given):
        given = [given]  # one text, as token ids
    values = [given] if isinstance(given, str) else given
    if not isinstance(values, list):
        raise ApiError(400, "input must be a string, a list of strings, or token ids", "input")
    return [(kind, _text_of(value, tokenizer)) for value in values]


def _text_of(value: Any, tokenizer: Tokenizer | None) -> str:
    """A text as it is, or decoded from this model's token ids."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not all(type(id) is int for id in value) or tokenizer is None:
        raise ApiError(400, "input must be a string, a list of strings, or token ids", "input")
    if value[:1] == [START] and END in value:
        with suppress(InputError):
            return tokenizer.decode(value)
    raise ApiError(
        400,
        "these token ids are not of this model's vocabulary; send texts (in LangChain's OpenAIEmbeddings: "
        f"check_embedding_ctx_length=False), or ids that begin with {START} and end with {END}",
        "input",
    )


def _part_of(messages: Any) -> tuple[Kind, str]:
    try:
        parts: list[dict[str, Any]] = []
        for message in messages:
            if message.get("role", "user") == "user":
                content = message["content"]
                parts += [{"type": "text", "text": content}] if isinstance(content, str) else content
        (part,) = (part for part in parts if part["type"] != "text" or part["text"].strip())
        if part["type"] == "text":
            return "text", str(part["text"])
        kinds: dict[str, Kind] = {"image_url": "image", "video_url": "video"}
        return kinds[part["type"]], str(part[part["type"]]["url"])
    except (TypeError, KeyError, AttributeError, ValueError):
        wanted = "messages must hold one part: a text, an image_url {url} or a video_url {url}"
        raise ApiError(400, wanted, "messages") from None


def is_address(kind: Kind, value: str) -> bool:
    """Whether an input has to be fetched; InputError if it is an image or video and neither an address nor a URI."""
    if kind == "text" or value.startswith("data:"):
        return False
    if not is_url(value) or not value.startswith(("http://", "https://")):
        raise InputError(value[:60], "is neither an http(s) address nor a data URI")
    return True


def read_data_uri(kind: Kind, value: str) -> Media:
    """The image or video in a data URI. Raises InputError."""
    head, comma, data = value.partition(",")
    name = f"{head[:60]},…"
    if not comma or not head.endswith(";base64"):
        raise InputError(name, "is no base64 data URI")
    try:
        return resolve(base64.b64decode(data, validate=True), name, kind=kind)
    except binascii.Error:
        raise InputError(name, "is no valid base64") from None


def answer(vectors: np.ndarray, request: EmbeddingRequest, model: str, tokens: int) -> bytes:
    """The JSON of vectors (n, D), cut to the dimensions that were asked for and made unit length again."""
    cut = vectors[:, : request.dimensions]
    cut = (cut / np.maximum(np.linalg.norm(cut, axis=1, keepdims=True), 1e-12)).astype("<f4")
    rows = []
    for index, vector in enumerate(cut):  # one at a time: `json` lets no other thread run before it is done
        shown = base64.b64encode(vector.tobytes()).decode() if request.encoding == "base64" else vector.tolist()
        rows.append(json.dumps({"object": "embedding", "index": index, "embedding": shown}))
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    head = json.dumps({"object": "list", "model": model, "usage": usage})
    return f'{head[:-1]}, "data": [{", ".join(rows)}]}}'.encode()


def count_tokens(encoder: Encoder, inputs: Sequence[tuple[Kind, str]]) -> int:
    """Text tokens of a request, for its `usage`; images and videos count their patches."""
    texts = [value for kind, value in inputs if kind == "text"]
    patches = encoder.visual.config.grid**2
    others = sum(patches * (8 if kind == "video" else 1) for kind, _ in inputs if kind != "text")
    if not texts or encoder.tokenizer is None:
        return others
    return others + int((encoder.tokenizer(texts).argmax(dim=1) + 1).sum())
