"""Videos a minute of the video data engine with the built-in models, the share of each stage, and speeds of decoding.

    python -m benchmarks.engine CLIPS [--rounds 5] [--out docs/results/engine_speed.json]

The engine runs once on the directory CLIPS, from an empty output to finished shards, with its defaults. Ways to decode
take turns, in processes that have started: the frames that the captioner sees, or every frame; at full size, or with
the short side that the engine stores; in one process or two.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from benchmarks.results import machine, report
from perception_encoder.models.precision import fast_dtype
from perception_encoder.preprocess.frames import plm_frame_indices
from perception_encoder.preprocess.video import read_frames, sample_frames
from perception_encoder.video_data_engine.config import EngineConfig
from perception_encoder.video_data_engine.run import caption_videos

DEFAULTS = EngineConfig()
SIDES = {"full size": None, f"short side {DEFAULTS.side} px": DEFAULTS.side}
PROCESSES = (1, 2)


def decode_sampled(path: Path, side: int | None) -> int:
    """Decode the frames that the captioner sees, from the key frame before each; return their number."""
    return len(read_frames(path, frames=DEFAULTS.frames, choose=plm_frame_indices, side=side).times)


def decode_all(path: Path, side: int | None) -> int:
    """Decode every frame; return their number."""
    return sum(1 for _ in sample_frames(path, every=0.0, side=side))


WAYS: dict[str, Callable[[Path, int | None], int]] = {
    f"{DEFAULTS.frames} frames a clip": decode_sampled,
    "every frame": decode_all,
}


def measure_decoding(clips: Sequence[Path], rounds: int, processes: Sequence[int] = PROCESSES) -> list[dict[str, Any]]:
    """Return what each way decodes in a round over all clips, and the seconds of each round."""
    rows: list[dict[str, Any]] = [
        {"frames": way, "size": size, "processes": count, "decoded": 0, "seconds": list[float]()}
        for way in WAYS
        for size in SIDES
        for count in processes
    ]
    context = multiprocessing.get_context("spawn")
    pools = {count: ProcessPoolExecutor(count, mp_context=context) for count in processes}
    for turn in range(rounds + 1):
        for row in rows:
            sides = [SIDES[row["size"]]] * len(clips)
            start = time.perf_counter()
            row["decoded"] = sum(pools[row["processes"]].map(WAYS[row["frames"]], clips, sides))
            if turn:  # the first one warms up
                row["seconds"].append(time.perf_counter() - start)
    for pool in pools.values():
        pool.shutdown()
    return rows


def measure_engine(clips: Sequence[Path]) -> dict[str, Any]:
    """Run the engine on the clips; return its report, and the seconds from the call to the last file."""
    with tempfile.TemporaryDirectory() as directory:
        start = time.perf_counter()
        counts = caption_videos(clips, Path(directory, "out"), DEFAULTS)
        return {**counts.to_dict(), "total_seconds": round(time.perf_counter() - start, 2)}


def main() -> None:
    """Measure, then print the JSON or write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path, metavar="CLIPS", help="a directory of videos")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="JSON to write [default: print it]")
    arguments = parser.parse_args()
    clips = sorted(path for path in arguments.clips.iterdir() if path.is_file())
    precision = str(fast_dtype(torch.device("cpu"))).removeprefix("torch.")
    result = {
        "command": "python -m benchmarks.engine CLIPS",
        "machine": f"{precision}, {machine()}",
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "clips": len(clips),
        "seconds": round(sum(read_frames(clip, frames=1).duration for clip in clips), 2),
        "decoding": measure_decoding(clips, arguments.rounds),
        "engine": measure_engine(clips),
    }
    report(result, arguments.out)


if __name__ == "__main__":
    main()
