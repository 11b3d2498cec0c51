"""Frames sampled from clips, a second: uniform ones as `pe embed` takes them, and one a second as `pe index` does."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image

from perception_encoder.preprocess.media import open_media, resolve
from perception_encoder.preprocess.video import read_frames, sample_frames

WIDTH, HEIGHT, RATE, GROUP = 426, 240, 30, 60
SECONDS, BRIEF_SECONDS, CLIPS = 180, 60, 4


def write_video(path: Path, seconds: int, seed: int) -> None:
    """An H.264 clip: photographs that move slowly, with noise, cut every few seconds."""
    from skimage import data

    photographs = [Image.fromarray(getattr(data, name)()) for name in ("astronaut", "chelsea", "coffee", "rocket")]
    scenes = [np.asarray(view.resize((2 * WIDTH, 2 * HEIGHT))) for view in photographs]
    generator = np.random.default_rng(seed)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("h264", rate=Fraction(RATE), options={"preset": "veryfast", "g": str(GROUP)})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(seconds * RATE):
            scene = scenes[number // (7 * RATE) % len(scenes)]
            left, top = number % WIDTH, number // 3 % HEIGHT
            view = scene[top : top + HEIGHT, left : left + WIDTH].astype(np.int16)
            noise = generator.integers(-6, 7, (HEIGHT, WIDTH, 1), dtype=np.int16)
            frame = np.clip(view + noise, 0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def decode_all(path: Path) -> int:
    """What a plain loop over all frames with PyAV takes; the frames that sampling each second would keep."""
    with av.open(str(path)) as container:
        container.streams.video[0].thread_count = 1
        return sum(number % RATE == 0 for number, _ in enumerate(container.decode(video=0)))


WAYS: dict[str, Callable[[Path], int]] = {
    "8 uniform frames (`read_frames`)": lambda path: len(read_frames(path, frames=8).images),
    "8 uniform frames, as `pe embed` opens them": lambda path: len(open_media(resolve(path)).images),  # type: ignore[union-attr]
    "64 uniform frames": lambda path: len(read_frames(path, frames=64).images),
    "a frame each second (`sample_frames`)": lambda path: sum(1 for _ in sample_frames(path, every=1.0)),
    "a frame each 4 seconds": lambda path: sum(1 for _ in sample_frames(path, every=4.0)),
    "PyAV, all frames decoded": decode_all,
}


def measure(brief: bool) -> dict[str, Any]:
    """Sampled frames a second of each way in each round, all cores reading clips of their own."""
    seconds, rounds = (BRIEF_SECONDS, 1) if brief else (SECONDS, 3)
    cores = torch.get_num_threads()
    speeds: dict[str, list[float]] = {name: [] for name in WAYS}
    with tempfile.TemporaryDirectory() as directory, ThreadPoolExecutor(cores) as pool:
        paths = [Path(directory) / f"{number}.mp4" for number in range(CLIPS)]
        list(pool.map(write_video, paths, [seconds] * CLIPS, range(CLIPS)))
        for number in range(rounds + 1):
            for name, way in WAYS.items():
                start = time.perf_counter()
                frames = sum(pool.map(way, paths))
                speed = frames / (time.perf_counter() - start)
                if number:
                    speeds[name].append(speed)
                print(f"video round {number}/{rounds}  {name}: {speed:.0f}/s", flush=True)
    return {"seconds": seconds, "cores": cores, "speeds": speeds}
