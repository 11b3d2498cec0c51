"""What spatial alignment costs: memory and time of its losses, a training step, and tracking a video.

    python -m benchmarks.spatial [--rounds 15] [--out docs/results/spatial_speed.json]

The similarity loss is measured in blocks and with whole matrices, each in a process of its own, forward and backward.
The training step is that of the recipe `spatial_builtin`, taken in turns with a plain forward and backward pass of the
student. A video of 60 frames of 432x240 px, with two objects, is tracked by the built-in model, encoding included.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from benchmarks.results import machine, report
from perception_encoder.dense_prediction.tracking import propagate
from perception_encoder.inference.load import load_layers
from perception_encoder.losses.spatial import TEMPERATURE, token_similarity_loss
from perception_encoder.models.precision import fast_autocast, fast_dtype
from perception_encoder.preprocess.image import to_float
from perception_encoder.spatial_alignment.recipes import spatial_builtin
from perception_encoder.spatial_alignment.run import SpatialTrainee
from perception_encoder.spatial_alignment.task import SpatialAlignmentTask, SpatialBatch

CPU = torch.device("cpu")
SHAPES = ((32, 196, 192, 8), (64, 1024, 256, 256))
"""Images, tokens, and the widths of both sides: the built-in recipe's, and that of the memory's aim."""
BLOCKS, WHOLE = "in blocks", "whole matrices"
PLAIN, ALIGNMENT = "plain forward and backward", "alignment step"
FRAMES, SIDE = 60, (240, 432)


def whole_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """The definition."""
    ours, other = F.normalize(student, dim=-1), F.normalize(teacher, dim=-1)
    return F.mse_loss(ours @ ours.mT, torch.exp(TEMPERATURE * (other @ other.mT - 1)))


def measure_loss(name: str, shape: tuple[int, int, int, int], rounds: int) -> dict[str, float]:
    """Seconds, and bytes above the inputs, of a process of its own."""
    images, tokens, width, masks = shape
    student, teacher = torch.randn(images, tokens, width).requires_grad_(), torch.rand(images, tokens, masks)
    loss = token_similarity_loss if name == BLOCKS else whole_loss
    loss(student[:1], teacher[:1]).backward()  # what is loaded once
    student.grad = None
    before, seconds = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, []
    for _ in range(rounds):
        start = time.perf_counter()
        loss(student, teacher).backward()
        seconds.append(time.perf_counter() - start)
        student.grad = None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": statistics.median(seconds), "bytes": (peak - before) * 1024}


def time_losses(rounds: int) -> list[dict[str, Any]]:
    """Both forms for each shape."""
    rows = []
    for shape in SHAPES:
        for name in (BLOCKS, WHOLE):
            call = f"measure_loss({name!r}, {shape}, {rounds})"
            program = f"import json; from benchmarks.spatial import measure_loss; print(json.dumps({call}))"
            done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
            rows.append({"form": name, "shape": list(shape), **json.loads(done.stdout)})
    return rows


def time_steps(rounds: int) -> dict[str, list[float]]:
    """Seconds of a step, by what it does, in turns; masks as in training."""
    config = replace(spatial_builtin(), drop_path=0.0)
    trainee = SpatialTrainee(config)
    grid = trainee.image_size // trainee.patch_size
    images, generator = 32, torch.Generator().manual_seed(0)
    batch = SpatialBatch(
        images=torch.randint(0, 256, (images, 3, *[trainee.image_size] * 2), dtype=torch.uint8, generator=generator),
        hidden=None if config.masking is None else config.masking.draw(images, (grid, grid), generator),
        branches=None,
        masks=torch.rand(images, grid * grid, 6, generator=generator),
        rows=torch.arange(images),
        share=1.0,
        mask_share=1.0,
    )
    task = SpatialAlignmentTask(trainee.student, trainee.teacher, config)
    vision = trainee.student.vision

    def plain() -> Tensor:
        return vision.forward_features(to_float(batch.images), norm=False).float().square().mean()

    calls = {PLAIN: plain, ALIGNMENT: lambda: torch.stack(list(task.losses(batch).values())).sum()}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            with fast_autocast(CPU):
                loss = call()
            loss.backward()
            trainee.student.zero_grad(set_to_none=True)
            if turn:  # the first one warms up
                seconds[name].append(time.perf_counter() - start)
    return seconds


def time_tracking(rounds: int) -> list[float]:
    """Frames a second, encoding included."""
    encoder = load_layers("builtin")
    pixels = np.random.default_rng(0).integers(0, 255, (30, 54, 3), np.uint8)
    image = Image.fromarray(pixels).resize(SIDE[::-1])
    frames = [image.rotate(number) for number in range(FRAMES)]
    first = torch.zeros(SIDE, dtype=torch.int64)
    first[60:140, 60:160], first[120:200, 250:330] = 1, 2
    rates = []
    for turn in range(rounds + 1):
        start = time.perf_counter()
        last = encoder.depth - 1
        features = encoder.encode_layers(frames, [last], SIDE)[last].patches
        propagate(torch.from_numpy(features), first)
        if turn:
            rates.append(FRAMES / (time.perf_counter() - start))
    return rates


def main() -> None:
    """Measure, then print the JSON or write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, help="JSON to write [default: print it]")
    arguments = parser.parse_args()
    precision = str(fast_dtype(CPU)).removeprefix("torch.")
    result = {
        "command": "python -m benchmarks.spatial",
        "machine": f"{precision}, {machine()}",
        "losses": time_losses(max(1, arguments.rounds // 5)),
        "steps": time_steps(arguments.rounds),
        "tracking": time_tracking(max(1, arguments.rounds // 5)),
    }
    report(result, arguments.out)


if __name__ == "__main__":
    main()
