"""A server of this process, in a thread, and data URIs to send to it."""

from __future__ import annotations

import base64
import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from PIL import Image

from perception_encoder.inference.encoder import Encoder
from perception_encoder.web_server.server import limited_server, listen


@contextmanager
def served(app: Any, port: int = 0) -> Iterator[str]:
    """Serve an app on a port, by default a free one; yields its address."""
    listener, server = listen("127.0.0.1", port), limited_server(app)
    port = listener.getsockname()[1]
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


def data_uri(image: Image.Image) -> str:
    """An image as a data URI."""
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def record_model_threads(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The threads that run a model from now on."""
    threads: set[int] = set()
    for name in ("embed_pixels", "embed_texts"):
        method = getattr(Encoder, name)
        monkeypatch.setattr(
            Encoder,
            name,
            lambda *arguments, method=method, **named: (
                threads.add(threading.get_ident()),
                method(*arguments, **named),
            )[1],
        )
    return threads
