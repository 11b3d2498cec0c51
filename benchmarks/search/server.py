"""`pe serve --api` under load: time of an answer and answers a second, and memory over minutes of mixed load.

There is no peer: infinity and vLLM need packages and weights from the network.
"""

from __future__ import annotations

import base64
import json
import random
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.embed import write_photographs
from benchmarks.search.contenders import quantile
from benchmarks.search.process import Client, resident_mib, serving

PATH = "/v1/embeddings"
CLIENTS = (1, 8, 64)
SECONDS, BRIEF_SECONDS = 20.0, 4.0  # of each number of clients
MIXED, BRIEF_MIXED = 600.0, 60.0
WARM_UP = 0.2  # share of the mixed load after which memory should be flat
SAMPLES = 120  # of memory that are stored
WORDS = ("red", "mug", "dog", "on", "a", "table", "snow", "two", "people", "old", "photo", "of", "the", "sea")

Body = Callable[[random.Random], bytes]


def text_body(chance: random.Random) -> bytes:
    """A text of four to twelve words."""
    text = " ".join(chance.choices(WORDS, k=chance.randint(4, 12)))
    return json.dumps({"model": "builtin", "input": [text], "encoding_format": "base64"}).encode()


def image_bodies(directory: Path) -> Body:
    """JPEGs of 640x480 as data URIs."""
    paths = write_photographs(directory, 16)
    uris = [f"data:image/jpeg;base64,{base64.b64encode(path.read_bytes()).decode()}" for path in paths]
    bodies = [json.dumps({"input": {"image": uri}, "encoding_format": "base64"}).encode() for uri in uris]
    return lambda chance: chance.choice(bodies)


def bad_body(chance: random.Random) -> bytes:
    """A request that is answered with 400."""
    return chance.choice(
        [
            b"{",
            json.dumps({"input": 7}).encode(),
            json.dumps({"input": {"image": "data:image/png;base64,AAAA"}}).encode(),
            json.dumps({"input": ["x"] * 2049}).encode(),
        ]
    )


def load(port: int, clients: int, seconds: float, body: Body) -> dict[str, Any]:
    """Answers a second and milliseconds of one, from clients that ask again as soon as they are answered."""
    until = time.monotonic() + seconds

    def work(number: int) -> list[float]:
        chance, client, times = random.Random(number), Client(port), []
        while time.monotonic() < until:
            request = body(chance)
            start = time.perf_counter()
            status, _ = client.ask(PATH, request)
            if status != 200:
                raise RuntimeError(f"answered {status}")
            times.append((time.perf_counter() - start) * 1000)
        return times

    start = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        times = [milliseconds for client in pool.map(work, range(clients)) for milliseconds in client]
    rate = len(times) / (time.monotonic() - start)
    return {"rate": rate, "p50": median(times), "p99": quantile(times, 0.99), "answers": len(times)}


def hang_up(port: int, body: bytes, chance: random.Random) -> None:
    """Send a request, or half of one, and go."""
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(head + body[: len(body) // chance.choice((1, 2))])


def mixed(port: int, pid: int, seconds: float, images: Body) -> dict[str, Any]:
    """Memory of the server under mixed load from eight clients, and how often it answered what."""
    until, answers, lock = time.monotonic() + seconds, Counter[str](), threading.Lock()

    def work(number: int) -> None:
        chance, client = random.Random(number), Client(port)
        while time.monotonic() < until:
            kind = chance.choices(("text", "image", "bad", "hung up"), (55, 30, 10, 5))[0]
            if kind == "hung up":
                hang_up(port, images(chance), chance)
                answer = kind
            else:
                body = {"text": text_body, "image": images, "bad": bad_body}[kind](chance)
                answer = f"{kind}: {client.ask(PATH, body)[0]}"
            with lock:
                answers[answer] += 1

    series = []
    start = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        workers = [pool.submit(work, number) for number in range(8)]
        while time.monotonic() < until:
            series.append((time.monotonic() - start, resident_mib(pid)))
            time.sleep(1)
        for worker in workers:
            worker.result()
    settled = np.array([sample for sample in series if sample[0] >= WARM_UP * seconds])
    slope = float(np.polyfit(settled[:, 0] / 60, settled[:, 1], 1)[0])
    samples = series[:: max(1, len(series) // SAMPLES)]
    memory = [[round(at, 1), round(mebibytes, 1)] for at, mebibytes in samples]
    return {"seconds": seconds, "slope": slope, "answers": dict(sorted(answers.items())), "memory": memory}


def measure(brief: bool) -> dict[str, Any]:
    """Texts and images from 1, 8 and 64 clients, then the mixed load, all against one process."""
    seconds, minutes = (BRIEF_SECONDS, BRIEF_MIXED) if brief else (SECONDS, MIXED)
    with tempfile.TemporaryDirectory() as directory, serving(["--api"]) as (process, port):
        images = image_bodies(Path(directory))
        loads: dict[str, Any] = {}
        for name, body in (("text", text_body), ("image", images)):
            load(port, 4, 2.0, body)  # warms up
            loads[name] = {str(clients): load(port, clients, seconds, body) for clients in CLIENTS}
            print(f"server {name}: {loads[name]}", flush=True)
        endured = mixed(port, process.pid, minutes, images)
        print(f"server mixed: {endured['answers']}, {endured['slope']:.2f} MiB/min", flush=True)
    return {"loads": loads, "mixed": endured}
