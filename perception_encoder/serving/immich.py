"""Answer the machine-learning requests of immich, which other photo servers send too: embeddings of images and texts.

Faces and text in images are other models' work. A photo server that gets an error for such a request asks its next
address for embeddings as well, under the same name, and two models' vectors mix in its database. So these requests are
passed on to another server, unless they are said to be switched off.
"""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from email import message_from_bytes
from functools import partial
from typing import TYPE_CHECKING, Any

from perception_encoder.errors import ConfigError, InputError, detached
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.media import resolve
from perception_encoder.inference.pipeline import Decoded
from perception_encoder.preprocess.image import upright_size
from perception_encoder.serving.queues import Batcher
from perception_encoder.serving.requests import ApiConfig, MediaReader, check_name, for_role, input_refused
from perception_encoder.web_server.http import ApiError, BodyReader, shortened

if TYPE_CHECKING:
    from fastapi import FastAPI, Request, Response

ALIASES = {512: "ViT-B-32__openai", 1024: "ViT-L-16-SigLIP2-384__webli"}
"""A name of immich's own list by the length of its vectors: it accepts no other names."""
UPSTREAM_SECONDS = 120.0
_CHARACTERS = 20_000  # of a text


@dataclass(frozen=True)
class Immich:
    """How a server answers a photo server."""

    alias: str
    """The name under which the photo server asks for the model."""
    upstream: str | None
    """Address of the server that answers other requests; None if there are none."""

    @classmethod
    def of(cls, encoder: Encoder, upstream: str | None, clip_only: bool) -> Immich:
        """Return the answers of a model; ConfigError if its vectors fit no name, or nobody answers other requests."""
        if (upstream is None) != clip_only:
            raise ConfigError(
                "immich also asks for faces and for text in images; if it gets an error, it asks its next address for "
                "embeddings too, and two models' vectors mix in its database: give --immich-upstream URL, immich's own "
                "service, or --immich-clip-only, if these jobs are switched off"
            )
        if upstream is not None and not upstream.startswith(("http://", "https://")):
            raise ConfigError(f"--immich-upstream is {upstream!r}; give an address, such as http://localhost:3003")
        if not encoder.reads_texts or encoder.dimension not in ALIASES:
            raise ConfigError(
                f"{encoder.name} has vectors of {encoder.dimension} numbers; immich has names for models of images and "
                f"texts with {' and '.join(map(str, ALIASES))}, such as PE-Core-S16-384 and PE-Core-L14-336"
            )
        return cls(ALIASES[encoder.dimension], upstream and upstream.rstrip("/"))


def add_immich_routes(app: FastAPI, encoder: Encoder, batcher: Batcher, config: ApiConfig, immich: Immich) -> None:
    """Add `/ping` and `/predict`, which take no key, and errors in their format."""
    from fastapi.responses import JSONResponse, PlainTextResponse, Response

    reader = MediaReader(config)
    bodies = BodyReader(config.body_bytes, config.body_seconds, config.bodies_bytes)

    async def ping(request: Request) -> Response:
        return PlainTextResponse("pong")

    async def predict(request: Request) -> Response:
        form_type = request.headers.get("content-type", "")
        async with bodies.read(request, partial(_parse_form, form_type)) as (fields, body):
            jobs = _parse_entries(fields.get("entries", b""))
            if "clip" not in jobs:
                if immich.upstream is None:
                    raise ApiError(
                        400, f"only clip is answered, not {shortened(', '.join(jobs))}: see --immich-upstream"
                    )
                answer = await asyncio.to_thread(_ask, f"{immich.upstream}/predict", form_type, body)
                return Response(answer[1], answer[0], media_type="application/json")
            if len(jobs) > 1:  # the other server would embed it with its own model
                raise ApiError(422, "entries has clip with other jobs; send each in a request of its own")
            return JSONResponse(await embed(jobs["clip"], fields))

    async def embed(job: Any, fields: dict[str, bytes]) -> dict[str, Any]:
        kind = next(iter(job), "") if isinstance(job, dict) and len(job) == 1 else ""
        field = {"visual": "image", "textual": "text"}.get(kind, "")
        if not field or not isinstance(job[kind], dict):
            raise ApiError(422, f"clip is {shortened(job)}; it must have either visual or textual")
        check_name(job[kind].get("modelName"), immich.alias, encoder.name, config.source)
        content = fields.get(field, b"")
        if not content:
            raise ApiError(400, f"the request has no {field}")
        size: dict[str, int] = {}
        with batcher.reserve(1) as hold:
            if field == "image":
                decoded = hold(await reader.decode(lambda: resolve(content, "image", kind="image"), batcher.decode))
                width, height = await asyncio.to_thread(upright_size, content, "image")
                size = {"imageHeight": height, "imageWidth": width}
            else:
                decoded = Decoded(text=_text(content))
            feature = for_role(encoder.feature(), None if size else "query", encoder)
            (vector,) = await batcher.encode([decoded], [feature])
        return {"clip": json.dumps(vector.tolist()), **size}

    async def refuse(request: Request, error: Exception) -> Response:
        refused = input_refused(error, "image") if isinstance(error, InputError) else error
        assert isinstance(refused, ApiError)
        return JSONResponse({"detail": detached(refused).message}, refused.status)

    for kind in (ApiError, InputError):
        app.add_exception_handler(kind, refuse)
    app.router.add_route("/ping", ping, methods=["GET"])
    app.router.add_route("/predict", predict, methods=["POST"])


def _parse_form(form_type: str, body: bytearray) -> tuple[dict[str, bytes], bytes]:
    """Return the fields of a multipart form, with the body itself."""
    content = bytes(body)
    form = message_from_bytes(b"Content-Type: " + form_type.encode("latin-1") + b"\r\n\r\n" + content)
    parts: Any = form.get_payload() if form.is_multipart() else []
    fields = {
        str(part.get_param("name", header="content-disposition")): part.get_payload(decode=True) for part in parts
    }
    return {name: value or b"" for name, value in fields.items()}, content


def _parse_entries(entries: bytes) -> dict[str, Any]:
    try:
        jobs = json.loads(entries)
    except (ValueError, RecursionError):
        jobs = None
    if not isinstance(jobs, dict) or not jobs:
        raise ApiError(422, "entries must be a JSON object of jobs, in a multipart form")
    return jobs


def _text(content: bytes) -> str:
    if len(content) > _CHARACTERS:
        raise ApiError(413, f"the text has more than {_CHARACTERS:,} bytes, the limit")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise ApiError(400, "the text is not UTF-8") from None


def _ask(address: str, form_type: str, body: bytes) -> tuple[int, bytes]:
    """Pass a request on; return the answer's status and content."""
    request = urllib.request.Request(address, body, {"Content-Type": form_type})
    try:
        with urllib.request.urlopen(request, timeout=UPSTREAM_SECONDS) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except OSError as error:
        raise ApiError(502, f"the server for other jobs does not answer: {error}"[:200]) from None
