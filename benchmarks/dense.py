"""Milliseconds that the commands of dense tasks take for an image or a video's frame, with the built-in models.

    python -m benchmarks.dense [--rounds 15] [--out docs/results/dense_speed.json]

Commands take turns, on an image of 640x480 px; for tracking it is a frame of a video with two objects, whose first and
last frames are compared with. Decoding and writing files are left out; models are loaded.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.results import machine, report
from perception_encoder.dense_prediction.depth import DepthHead
from perception_encoder.dense_prediction.heads import Views, detect_objects, load_head
from perception_encoder.dense_prediction.segmentation import region_like, to_mask
from perception_encoder.dense_prediction.tracking import maps_at, track_objects
from perception_encoder.inference.load import load_layers
from perception_encoder.models.precision import fast_dtype
from perception_encoder.models.registry import BUILTIN_DEPTH, BUILTIN_DETECTOR

SIZE = (640, 480)
SIDES = (240, 480)
"""Pixels of the short side that `pe track` and `pe segment` are timed at; the latter is their default."""
FRAMES = 10
"""Frames that are tracked for one timing; the first is given."""


def list_calls() -> dict[str, tuple[Callable[[], object], int]]:
    """Return what is timed, by its name, and how many frames a call takes."""
    pixels = np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8)
    image = Image.fromarray(pixels).resize(SIZE)
    frames = [image.rotate(number) for number in range(FRAMES)]
    first = np.zeros(SIZE[::-1], np.int64)
    first[120:280, 120:260], first[240:400, 400:560] = 1, 2
    layer = load_layers("builtin-spatial")
    depth_head, detector_head = load_head(BUILTIN_DEPTH), load_head(BUILTIN_DETECTOR)
    depth, depth_size = depth_head.model, depth_head.info.image_size
    detector, detector_size = detector_head.model, detector_head.info.image_size
    assert isinstance(depth.head, DepthHead)
    predict = depth.head.predict
    calls: dict[str, tuple[Callable[[], object], int]] = {}
    for side in SIDES:
        calls[f"pe track, {side} px"] = (lambda side=side: list(track_objects(frames, first, layer, side)), FRAMES - 1)
    for side in SIDES:
        calls[f"pe segment --point, {side} px"] = (
            lambda side=side: to_mask(region_like(maps_at(layer, [image], side)[0], (0.4, 0.5)), image.size),
            1,
        )
    calls[f"pe depth, {depth_size} px"] = (lambda: predict(depth.map_of(image, depth_size), SIZE[::-1]), 1)
    calls[f"pe detect, {detector_size} px"] = (
        lambda: detect_objects(detector, image, detector_size, Views()),
        1,
    )
    return calls


@torch.inference_mode()
def measure(rounds: int) -> dict[str, list[float]]:
    """Seconds a frame of each round, by what is timed."""
    calls = list_calls()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, (call, frames) in calls.items():
            start = time.perf_counter()
            call()
            if turn:  # the first one warms up
                seconds[name].append((time.perf_counter() - start) / frames)
    return seconds


def main() -> None:
    """Measure, then print the JSON or write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, help="JSON to write [default: print it]")
    arguments = parser.parse_args()
    precision = str(fast_dtype(torch.device("cpu"))).removeprefix("torch.")
    about = {"command": "python -m benchmarks.dense", "machine": f"{precision}, {machine()}"}
    report({**about, "seconds": measure(arguments.rounds)}, arguments.out)


if __name__ == "__main__":
    main()
