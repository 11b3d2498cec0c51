"""A server that speaks OpenAI's chat protocol, and breaks it in every way that real ones do."""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.web import serving

Answer = Callable[[BaseHTTPRequestHandler, dict[str, Any]], None]


def chunk(content: str | None = None, reason: str | None = None) -> bytes:
    """An event of a stream."""
    choice = {"index": 0, "delta": {} if content is None else {"content": content}, "finish_reason": reason}
    body = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": [choice]}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def send(handler: BaseHTTPRequestHandler, status: int, kind: str, body: bytes, **headers: str) -> None:
    handler.send_response(status)
    for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def stream(handler: BaseHTTPRequestHandler, *events: bytes) -> None:
    send(handler, 200, "text/event-stream", b"".join(events))


def well(handler: BaseHTTPRequestHandler, request: dict[str, Any]) -> None:
    """Answer with the number of images, and the last text in upper case, in two pieces."""
    content = request["messages"][-1]["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    images = sum(part["type"] == "image_url" for part in parts)
    stream(
        handler,
        chunk(f"{images} images: "),
        chunk(parts[-1]["text"].upper()),
        chunk(reason="stop"),
        b"data: [DONE]\n\n",
    )


def whole(content: object, reason: str | None = "stop", kind: str = "application/json") -> Answer:
    """Answer without a stream, as endpoints do that ignore it."""
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": reason}
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    body = json.dumps({"id": "1", "object": "chat.completion", "choices": [choice], "usage": usage}).encode()
    return lambda handler, _: send(handler, 200, kind, body)


def empty(handler: BaseHTTPRequestHandler, request: dict[str, Any]) -> None:
    """Finish without a word, as a filter does."""
    stream(handler, chunk(" "), chunk(reason="stop"))


def odd(handler: BaseHTTPRequestHandler, request: dict[str, Any]) -> None:
    """Send a JSON object of another protocol."""
    send(handler, 200, "application/json", b'{"response": "a cup"}')


def failing(status: int, message: str = "sorry", **headers: str) -> Answer:
    """Answer with an error."""
    body = json.dumps({"error": {"message": message}}).encode()
    return lambda handler, _: send(handler, status, "application/json", body, **headers)


def half(handler: BaseHTTPRequestHandler, request: dict[str, Any]) -> None:
    """End after half an answer."""
    stream(handler, chunk("a cup on"))


def cut(handler: BaseHTTPRequestHandler, request: dict[str, Any]) -> None:
    """Promise more than is sent, and hang up."""
    handler.send_response(200)
    handler.send_header("Content-Type", "text/event-stream")
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    handler.wfile.write(chunk("a cup on"))
    handler.close_connection = True


def garbage(handler: BaseHTTPRequestHandler, request: dict[str, Any]) -> None:
    """Send what is not JSON."""
    stream(handler, b"data: <html>\xff</html>\n\n", b"data: [DONE]\n\n")


def other(handler: BaseHTTPRequestHandler, request: dict[str, Any]) -> None:
    """Send JSON of another protocol."""
    stream(handler, b'data: {"text": "a cup", "choices": [7]}\n\n', b"data: [DONE]\n\n")


def page(handler: BaseHTTPRequestHandler, request: dict[str, Any]) -> None:
    """Send a page, as a captive portal does."""
    send(handler, 200, "text/html", b"<html>Please log in</html>")


def mute(handler: BaseHTTPRequestHandler, request: dict[str, Any]) -> None:
    """Never answer."""
    time.sleep(3)


def dripping(kind: str, piece: bytes, status: int = 200) -> Answer:
    """Send a piece now and then, for ever."""

    def answer(handler: BaseHTTPRequestHandler, request: dict[str, Any]) -> None:
        handler.send_response(status)
        handler.send_header("Content-Type", kind)
        handler.end_headers()
        for _ in range(30):
            handler.wfile.write(piece)
            handler.wfile.flush()
            time.sleep(0.1)

    return answer


def huge(kind: str, status: int = 200) -> Answer:
    """Answer with 20 MB."""
    return lambda handler, _: send(handler, status, kind, b"x" * 20_000_000)


def compressed(status: int) -> Answer:
    """Answer with a megabyte in a kilobyte."""
    content = gzip.compress(bytes(1 << 20))
    return lambda handler, _: send(handler, status, "application/json", content, **{"Content-Encoding": "gzip"})


@contextmanager
def endpoint(*answers: Answer) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Serve on a free port, each request by the next answer, and all others by the last; its address and requests."""
    requests: list[dict[str, Any]] = []
    lock = threading.Lock()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with lock:
            requests.append({**body, "key": handler.headers["Authorization"], "path": handler.path})
            chosen = answers[min(len(requests), len(answers)) - 1]
        with suppress(BrokenPipeError, ConnectionResetError):
            chosen(handler, body)

    with serving(answer) as url:
        yield f"{url}/v1", requests
