"""Memory of `pe serve` under minutes of mixed load from sixteen clients: the page, the API, and both with chat.

    python -m benchmarks.server_memory LABEL [--code DIR] [--seconds 200] [--out docs/results/server_memory.json]

LABEL names the code that serves, such as "before" or "after"; --code DIR serves another checkout's. A run replaces the
series of its label only. The clients connect to 127.0.0.1 alone and stop after --seconds or after a number of requests.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import platform
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import torch
from PIL import Image

from benchmarks.embed import write_photographs
from benchmarks.results import report
from benchmarks.search.process import Client, peak_mib, resident_mib, serving
from benchmarks.search.server import PATH, hang_up
from perception_encoder.inference.model_spec import ModelSpec
from perception_encoder.models.precision import fast_dtype
from perception_encoder.search.storage.update import update_store, writable_store

CLIENTS, MOST_REQUESTS, IMAGES = 16, 100_000, 200
LARGE, DAMAGED = (4000, 3000), 3000  # pixels of a phone's image; bytes that are left of a damaged one
WORDS = ("red", "mug", "dog", "on", "a", "table", "snow", "two", "people", "old", "photo", "of", "the", "sea")

Ask = Callable[[random.Random, Client], int]
"""Sends one request and returns its status."""


def text(chance: random.Random) -> str:
    """Four to twelve words."""
    return " ".join(chance.choices(WORDS, k=chance.randint(4, 12)))


def large_images() -> list[bytes]:
    """JPEGs of twelve megapixels."""
    contents = []
    for seed in range(3):
        noise = np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        stream = io.BytesIO()
        Image.fromarray(noise).resize(LARGE, Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
        contents.append(stream.getvalue())
    return contents


def page_requests(directory: Path, port: int) -> dict[str, tuple[int, Ask]]:
    """What a browser sends to the page, with weights."""
    ids = [tile["id"] for tile in json.loads(Client(port).get("/api/hits?count=200"))["tiles"]]
    small = [path.read_bytes() for path in sorted(directory.glob("*.jpg"))[:16]]
    large = large_images()

    def inside(chance: random.Random) -> str:
        layer = f"layer={chance.randrange(12)}"
        at = f"&at={chance.random():.3f},{chance.random():.3f}" if chance.random() < 0.5 else ""
        return f"/api/inside/{chance.choice(ids)}?{layer}{at}"

    return {
        "text": (30, lambda chance, client: client.ask(f"/api/hits?q=text:{quote(text(chance))}")[0]),
        "list": (10, lambda chance, client: client.ask(f"/api/hits?offset={chance.randrange(150)}")[0]),
        "thumbnail": (20, lambda chance, client: client.ask(f"/thumbnail/{chance.choice(ids)}")[0]),
        "inside": (10, lambda chance, client: client.ask(inside(chance))[0]),
        "image": (12, lambda chance, client: client.ask("/api/image", chance.choice(small))[0]),
        "12 MP image": (4, lambda chance, client: client.ask("/api/image", chance.choice(large))[0]),
        "damaged image": (7, lambda chance, client: client.ask("/api/image", chance.choice(large)[:-DAMAGED])[0]),
        "wrong": (7, lambda chance, client: client.ask(f"/api/hits?q=rubbish{chance.random()}")[0]),
    }


def api_requests(directory: Path, port: int) -> dict[str, tuple[int, Ask]]:
    """What programs send to the API, with weights."""

    def body(content: bytes) -> bytes:
        uri = f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"
        return json.dumps({"input": {"image": uri}, "encoding_format": "base64"}).encode()

    small = [body(path.read_bytes()) for path in sorted(directory.glob("*.jpg"))[:16]]
    large = large_images()
    damaged = [body(content[:-DAMAGED]) for content in large]
    whole = [body(content) for content in large]

    def texts(chance: random.Random) -> bytes:
        return json.dumps({"input": [text(chance) for _ in range(chance.choice((1, 1, 1, 32)))]}).encode()

    def hung_up(chance: random.Random, client: Client) -> int:
        hang_up(port, chance.choice(small), chance)
        return 0

    return {
        "text": (45, lambda chance, client: client.ask(PATH, texts(chance))[0]),
        "image": (25, lambda chance, client: client.ask(PATH, chance.choice(small))[0]),
        "12 MP image": (5, lambda chance, client: client.ask(PATH, chance.choice(whole))[0]),
        "damaged image": (8, lambda chance, client: client.ask(PATH, chance.choice(damaged))[0]),
        "wrong": (12, lambda chance, client: client.ask(PATH, chance.choice((b"{", b'{"input": 7}', b"[]")))[0]),
        "hung up": (5, hung_up),
    }


def chat_requests(directory: Path, port: int) -> dict[str, tuple[int, Ask]]:
    """What is sent to a server of the page, the embedding API and a language model, with weights."""

    def body(content: bytes) -> bytes:
        uri = f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"
        content_parts = [{"type": "image_url", "image_url": {"url": uri}}, {"type": "text", "text": "What is this?"}]
        return json.dumps({"messages": [{"role": "user", "content": content_parts}], "max_tokens": 16}).encode()

    chats = [body(content) for content in large_images()]
    page, api = page_requests(directory, port), api_requests(directory, port)
    return {
        **{f"page: {name}": item for name, item in page.items()},
        **{f"API: {name}": value for name, value in api.items()},
        "chat": (20, lambda chance, client: client.ask("/v1/chat/completions", chance.choice(chats))[0]),
    }


def drive(requests: Mapping[str, tuple[int, Ask]], port: int, pid: int, seconds: float) -> dict[str, Any]:
    """The memory of a server in MiB over seconds, and how often it answered what."""
    until, answers, lock = time.monotonic() + seconds, Counter[str](), threading.Lock()
    names, weights = list(requests), [weight for weight, _ in requests.values()]

    def work(number: int) -> None:
        chance, client = random.Random(number), Client(port)
        for _ in range(MOST_REQUESTS // CLIENTS):
            if time.monotonic() > until:
                return
            name = chance.choices(names, weights)[0]
            status = requests[name][1](chance, client)
            with lock:
                answers[f"{name} {status or ''}".strip()] += 1

    start, memory = time.monotonic(), []
    with ThreadPoolExecutor(CLIENTS) as pool:
        workers = [pool.submit(work, number) for number in range(CLIENTS)]
        while not all(worker.done() for worker in workers):
            memory.append([round(time.monotonic() - start, 1), round(resident_mib(pid), 1)])
            time.sleep(2)
        for worker in workers:
            worker.result()
    peak = round(peak_mib(pid), 1)
    return {"memory": memory, "peak": peak, "answers": dict(sorted(answers.items()))}


def measure(seconds: float, code: Path | None) -> dict[str, Any]:
    """The servers, one after the other, each in a process of its own."""
    series = {}
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        write_photographs(directory, IMAGES)
        with writable_store(directory, ModelSpec()) as (index, encoder):
            update_store(index, encoder)
        chat = [temporary, "--api", "--ask-model", "builtin-lang", "--chat-model", "builtin-lang"]
        for name, arguments, kinds in (
            ("page", [temporary], page_requests),
            ("api", ["--api"], api_requests),
            ("chat", chat, chat_requests),
        ):
            with serving(arguments, code) as (process, port):
                series[name] = drive(kinds(directory, port), port, process.pid, seconds)
            print(f"{name}: {series[name]['peak']} MiB at most, {series[name]['answers']}", flush=True)
    return {"seconds": seconds, "load": round(os.getloadavg()[0], 1), **series}


def main() -> None:
    """Measure, then print the JSON or write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("label", metavar="LABEL", help="a name for the code that serves")
    parser.add_argument("--code", type=Path, help="checkout whose `pe serve` runs [default: the installed one]")
    parser.add_argument("--seconds", type=float, default=200.0, help="of load, for each server [default: 200]")
    parser.add_argument("--out", type=Path, help="JSON to write [default: print it]")
    arguments = parser.parse_args()
    known = arguments.out is not None and arguments.out.exists()
    result = json.loads(arguments.out.read_text()) if known else {"runs": {}}
    dtype = str(fast_dtype(torch.device("cpu"))).removeprefix("torch.")
    versions = f"{dtype}, torch {torch.__version__}, Python {platform.python_version()}"
    result["machine"] = f"{os.cpu_count()} CPU cores, {versions}"
    result["command"] = "python -m benchmarks.server_memory LABEL --out docs/results/server_memory.json"
    result["runs"][arguments.label] = measure(arguments.seconds, arguments.code)
    report(result, arguments.out)


if __name__ == "__main__":
    main()
