"""CPU seconds to take a frame each second of a video, as `pe index` does, beside decoding all of it; by codec.

    python -m benchmarks.decode [--rounds 10] [--seconds 20] [--out docs/results/decode.json]

The clips are written here: photographs that move slowly, cut every seven seconds, with a key frame a second. Contenders
take turns. CPU time, of all cores, since a search index decodes on several; frames are reduced to twice the input size
of a model of 224 pixels. A few minutes on two cores, mostly to write the clips.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import av
import numpy as np
from PIL import Image

from benchmarks.encode.__main__ import machine
from benchmarks.results import report
from perception_encoder.preprocess.video import sample_frames

SIDE = 448
CUT = 7
"""Seconds a photograph is shown."""
ALL, OURS = "all frames, PyAV", "a frame each second"


class Clip(NamedTuple):
    """A kind of video, and the encoder's settings."""

    codec: str
    suffix: str
    size: tuple[int, int]
    rate: int
    options: dict[str, str]


CLIPS = {
    "H.264, 1080p30": Clip("libx264", "mp4", (1920, 1080), 30, {"preset": "medium", "sc_threshold": "0"}),
    "HEVC, 1080p30": Clip("libx265", "mp4", (1920, 1080), 30, {"preset": "veryfast", "x265-params": "log-level=none"}),
    "VP9, 1080p30": Clip("libvpx-vp9", "webm", (1920, 1080), 30, {"deadline": "realtime", "cpu-used": "8", "b": "4M"}),
    "AV1, 1080p30": Clip("libsvtav1", "mp4", (1920, 1080), 30, {"preset": "12"}),
    "HEVC, 2160p60": Clip("libx265", "mp4", (3840, 2160), 60, {"preset": "ultrafast", "x265-params": "log-level=none"}),
}


def write_clip(path: Path, clip: Clip, seconds: int) -> None:
    """Write a video of photographs that move, one every `CUT` seconds."""
    from skimage import data

    (width, height), rate = clip.size, clip.rate
    photographs = [Image.fromarray(getattr(data, name)()) for name in ("astronaut", "chelsea", "coffee", "rocket")]
    scenes = [np.asarray(image.resize((width * 5 // 4, height * 5 // 4))) for image in photographs]
    noise = np.random.default_rng(0).normal(0, 2, (height, width, 1)).astype(np.int8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(clip.codec, rate=Fraction(rate), options=clip.options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"  # type: ignore[attr-defined]
        stream.codec_context.gop_size = rate  # type: ignore[attr-defined]
        for number in range(seconds * rate):
            scene = scenes[number // (CUT * rate) % len(scenes)]
            left, top = number % (width // 4), number // 3 % (height // 4)
            view = scene[top : top + height, left : left + width].astype(np.int16) + np.roll(noise, 7 * number, 1)
            frame = av.VideoFrame.from_ndarray(np.clip(view, 0, 255).astype(np.uint8), format="rgb24")
            container.mux(stream.encode(frame))  # type: ignore[attr-defined]
        container.mux(stream.encode())  # type: ignore[attr-defined]


def decode_all(path: Path) -> int:
    """Decode every frame on one thread; return their number."""
    with av.open(str(path)) as container:
        container.streams.video[0].thread_count = 1
        return sum(1 for _ in container.decode(video=0))


def sample(path: Path) -> int:
    """Take a frame each second, as `pe index` does; return their number."""
    return sum(1 for _ in sample_frames(path, every=1.0, side=SIDE, near=True))


WAYS: dict[str, Callable[[Path], int]] = {ALL: decode_all, OURS: sample}


def measure(rounds: int, seconds: int) -> dict[str, dict[str, list[float]]]:
    """Return CPU seconds by clip and way, a value a round; the first round does not count."""
    found: dict[str, dict[str, list[float]]] = {}
    for name, clip in CLIPS.items():
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / f"clip.{clip.suffix}"
            write_clip(path, clip, seconds)
            taken: dict[str, list[float]] = {way: [] for way in WAYS}
            for number in range(rounds + 1):
                for way, call in WAYS.items():
                    start = time.process_time()
                    call(path)
                    if number:
                        taken[way].append(round(time.process_time() - start, 4))
        found[name] = taken
        print(name, {way: round(median(values), 3) for way, values in taken.items()}, flush=True)
    return found


def main() -> None:
    """Measure all clips."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=int, default=20, help="length of each clip")
    parser.add_argument("--out", type=Path, help="JSON to write into [default: print]")
    arguments = parser.parse_args()
    result: dict[str, Any] = {"command": "python -m benchmarks.decode", "machine": machine()}
    result |= {"seconds": arguments.seconds, "cpu_seconds": measure(arguments.rounds, arguments.seconds)}
    report(result, arguments.out)


if __name__ == "__main__":
    main()
