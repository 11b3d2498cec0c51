"""Ask a model behind an OpenAI-compatible chat endpoint, with OpenAI's client.

Answers are streamed, so that a truncated answer is an error; an endpoint that ignores that sends them whole. The client
makes one attempt: the caller retries.
"""

from __future__ import annotations

import base64
import contextlib
import os
import time
from collections.abc import Generator, Iterator, Sequence
from typing import Any, Literal

from PIL import Image

from perception_encoder.conversation.assistant import Assistant
from perception_encoder.errors import EndpointError, needs_extra, one_line
from perception_encoder.preprocess.conversation import Message, Reply, Sampling
from perception_encoder.preprocess.image import image_file
from perception_encoder.records import parse_json

KEY = "OPENAI_API_KEY"
"""The environment variable that holds the key; many self-hosted servers need none."""
_REFUSED = (400, 413, 415, 422)
"""HTTP statuses of requests that would fail again."""
_WRONG = (401, 403, 404, 405)
"""HTTP statuses of a wrong key, model or address."""
Scope = Literal["attempt", "request", "service"]
MAX_BYTES = 1 << 24
"""Of an answer."""


class EndpointModel(Assistant):
    """A model behind an address such as `https://host/v1`; several threads may call it.

    `timeout`: maximum number of seconds for a whole answer. Raises MissingExtraError without openai.
    """

    threads = 1024  # as many as its server takes

    def __init__(self, address: str, model: str, timeout: float = 120.0) -> None:
        with needs_extra("engine", "openai"):
            import openai
        self.name, self.address, self.timeout = model, address, timeout
        key = os.environ.get(KEY) or "none"
        self._library: Any = openai
        self._client: Any = openai.OpenAI(
            base_url=address,
            api_key=key,
            timeout=timeout,
            max_retries=0,
            default_headers={"Accept-Encoding": "identity"},
            http_client=openai.DefaultHttpxClient(event_hooks={"request": [self._begin], "response": [self._limit]}),
        )

    def describe(self) -> dict[str, Any]:
        """Return the name and the address."""
        return {"name": self.name, "address": self.address}

    def generate(self, conversations: Sequence[Sequence[Message]], sampling: Sampling | None = None) -> list[Reply]:
        """Return an answer to each conversation, one after the other; EndpointError if one fails."""
        replies = []
        for conversation in conversations:
            pieces = self.generate_stream(conversation, sampling)
            while True:
                try:
                    next(pieces)
                except StopIteration as end:
                    replies.append(end.value)
                    break
        return replies

    def generate_stream(
        self, conversation: Sequence[Message], sampling: Sampling | None = None
    ) -> Generator[str, None, Reply]:
        """Yield the answer piece by piece, and return all of it; EndpointError if it fails, is truncated or empty."""
        sampling = sampling or Sampling()
        text, count, reason, usage = "", 0, None, None
        try:
            options = {"stop": list(sampling.stop)} if sampling.stop else {}
            response = self._client.chat.completions.with_raw_response.create(
                model=self.name,
                messages=[{"role": message.role, "content": _content(message)} for message in conversation],
                max_tokens=sampling.max_tokens,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                seed=sampling.seed,
                stream=True,
                **options,
            )
            kind = response.headers.get("content-type", "")
            if kind.startswith("text/event-stream"):
                with response.parse() as chunks:
                    for chunk in chunks:
                        usage = chunk.usage or usage
                        for choice in chunk.choices[:1]:
                            reason = choice.finish_reason or reason
                            if piece := choice.delta.content:
                                text, count = text + piece, count + 1
                                yield piece
            else:
                whole = self._read_whole(response.http_response, kind)
                (choice,), usage = whole.choices[:1], whole.usage
                text += choice.message.content or ""  # a TypeError for other things than a text
                reason, count = choice.finish_reason or "stop", 1
                if text:
                    yield text
        except EndpointError:
            raise
        except self._library.APIStatusError as error:
            status, wait = error.status_code, _seconds(error.response.headers.get("retry-after"))
            scope: Scope = "request" if status in _REFUSED else "service" if status in _WRONG else "attempt"
            raise EndpointError(f"{self.address} answered with an error: {one_line(error)}", scope, wait) from None
        except self._library.APITimeoutError:
            raise EndpointError(f"{self.address} did not answer within {self.timeout:g} s") from None
        except Exception as error:  # garbage can make the client raise anything
            cause = error.__cause__ or error
            raise EndpointError(f"{self.address} failed or sent an invalid answer: {one_line(cause)}") from None
        if reason is None:
            raise EndpointError(f"{self.address} truncated its answer")
        if not text.strip():
            raise EndpointError(f"{self.address} answered without a word ({reason})", "answer")
        prompt_tokens, tokens = (usage.prompt_tokens, usage.completion_tokens) if usage else (0, count)
        return Reply(text, prompt_tokens, tokens, reason != "length")

    def _begin(self, request: Any) -> None:
        request.extensions["deadline"] = time.monotonic() + self.timeout

    def _limit(self, response: Any) -> None:
        """Limit the bytes and the time of reading a response, also of an error; ValueError if it is compressed."""
        if (encoding := response.headers.get("content-encoding", "identity")) != "identity":
            raise ValueError(f"it has the content-encoding {encoding}, which was not asked for")
        stream, deadline = response.stream, response.request.extensions["deadline"]
        late = EndpointError(f"{self.address} took longer than {self.timeout:g} s for an answer")

        class LimitedStream(type(stream)):  # type: ignore[misc]  # the client wants its own type
            def __init__(self) -> None:
                self.close = stream.close

            def __iter__(self) -> Iterator[bytes]:
                size = 0
                for piece in stream:
                    if time.monotonic() > deadline:
                        raise late
                    if (size := size + len(piece)) > MAX_BYTES:
                        raise ValueError(f"it has more than {MAX_BYTES} bytes")
                    yield piece

        response.stream = LimitedStream()

    def _read_whole(self, response: Any, kind: str) -> Any:
        """Read an answer that is not streamed; ValueError for anything else."""
        with contextlib.closing(response):
            if "json" not in kind:
                raise ValueError(f"it is {kind or 'of no type'}, not an answer")
            return self._library.types.chat.ChatCompletion.construct(**parse_json(response.read(), dict[str, Any]))


def _content(message: Message) -> str | list[dict[str, Any]]:
    """Return a message's text, or its texts and images as parts."""
    if not message.media:
        return "".join(map(str, message.content))
    parts: list[dict[str, Any]] = []
    for part in message.content:
        if isinstance(part, str):
            parts.append({"type": "text", "text": part})
            continue
        for image in [part] if isinstance(part, Image.Image) else part.images:
            jpeg = base64.b64encode(image_file(image.convert("RGB"), "JPEG", quality=92)).decode()
            parts.append({"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{jpeg}"}})
    return parts


def _seconds(text: str | None) -> float | None:
    """Return the seconds in a `Retry-After` header; None for a date or anything else."""
    try:
        return max(0.0, float(text)) if text else None
    except ValueError:
        return None
