"""Pairs a second of training steps, ours beside open_clip's own models and loss, in one run; and where the time goes.

    python -m benchmarks.train --photos DIR [--drawings DIR] [--steps 5] [--out docs/results/train.json]

The built-in model ("nano") trains on its recipe's own batches, made beforehand: 256 pairs, at each resolution, and once
with its text tower fixed. Ours is the step of `synthetic.train builtin`; the peer is open_clip's CLIP with its own
towers of the same sizes, its ClipLoss, a caption an image padded to the context as it pads them, and AdamW.
PE-Core-B16 trains on noise, 16 pairs, with AdamW on both sides; the peer is open_clip's configuration of it. All have
random weights, and compute in the type that is fast here.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.results import machine, report
from benchmarks.train.cases import B16, B16_BATCH, FIXED, LENGTH, Case, NanoData, b16_case
from benchmarks.train.contenders import CPU, Step
from benchmarks.train.profile import layer_products, shares
from perception_encoder.data.pairs import ImageTextBatch
from perception_encoder.models.memory import keep_freed_memory
from perception_encoder.models.precision import fast_dtype
from perception_encoder.models.registry import find_model
from perception_encoder.pretraining.recipes import contrastive_flops
from perception_encoder.training.cost import tower_part
from synthetic.builtin.recipes import builtin

WARM_UP = 2  # steps of each contender that are not counted


def measure(case: Case, count: int) -> dict[str, list[float]]:
    """Pairs a second of each contender in each step that counts."""
    names = [tuple(case.makers)] if case.alternate else [(name,) for name in case.makers]
    speeds: dict[str, list[float]] = {}
    for group in names:
        steps = {name: case.makers[name]() for name in group}
        for number in range(WARM_UP + count):
            for name, step in steps.items():
                rate = pairs_a_second(step, case.batches[number % len(case.batches)])
                if number >= WARM_UP:
                    speeds.setdefault(name, []).append(rate)
                print(f"{case.title}, step {number}: {name} {rate:.1f} pairs/s", flush=True)
    return speeds


def pairs_a_second(step: Step, batch: ImageTextBatch) -> float:
    """Of one step."""
    start = time.perf_counter()
    step(batch)
    return len(batch) / (time.perf_counter() - start)


def analyse(nano: NanoData, pairs_a_second: float) -> dict[str, Any]:
    """Our step of nano with both towers trained: its operations, its time by kind, and the machine's limit."""
    entry, batches = find_model(nano.config.model), nano.batches[FIXED]
    assert entry.text is not None

    def fixed(batch: ImageTextBatch) -> float:
        """Operations of a step whose captions are encoded already."""
        image = tower_part(entry.vision, batch.images.shape[-1]).flops()
        return len(batch.images) * (image + contrastive_flops(len(batch), entry.vision))

    texts = [len(batch.tokens) * tower_part(entry.text, batch.tokens.shape[1]).flops() for batch in batches]
    flops = statistics.mean(fixed(batch) + text for batch, text in zip(batches, texts, strict=True))
    step = nano.ours()
    step(batches[0])
    images = nano.config.batch_size
    return {
        "shares": shares(step, batches),
        "flops_a_pair": flops / images,
        "flops_a_pair_text_fixed": fixed(batches[0]) / images,
        "flops_a_second": flops / images * pairs_a_second,
        "layer_products": {
            str(dtype).removeprefix("torch."): layer_products(entry.vision, images, FIXED, dtype)
            for dtype in (torch.float32, torch.bfloat16)
        },
        "captions_a_second": nano.captions_a_second(),
        "b16": b16_limit(),
    }


def b16_limit() -> dict[str, float]:
    """Operations of a pair of the case of PE-Core-B16, and how fast its layers' products are in the fast type."""
    entry = find_model(B16)
    assert entry.text is not None
    return {
        "flops_a_pair": tower_part(entry.vision).flops() + tower_part(entry.text, LENGTH).flops(),
        "layer_products": layer_products(entry.vision, B16_BATCH, entry.vision.image_size, fast_dtype(CPU)),
    }


def main() -> None:
    """Measure, then print the JSON or write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="directory with train.tar")
    parser.add_argument("--drawings", type=Path, help="directory that `python -m synthetic.drawings` made")
    parser.add_argument("--steps", type=int, default=5, help="that count, of each contender")
    parser.add_argument("--out", type=Path, help="JSON to write [default: print it]")
    arguments = parser.parse_args()
    keep_freed_memory()
    nano = NanoData(
        builtin(), [directory for directory in (arguments.photos, arguments.drawings) if directory is not None]
    )
    speeds = {case.title: measure(case, arguments.steps) for case in [*nano.cases(), b16_case()]}
    dtype = str(fast_dtype(CPU)).removeprefix("torch.")
    result = {
        "command": "python -m benchmarks.train --photos DIR --drawings DIR",
        "machine": machine(),
        "dtype": dtype,
        "speeds": speeds,
        "profile": analyse(nano, statistics.median(speeds[nano.case(FIXED).title]["ours"])),
    }
    report(result, arguments.out)


if __name__ == "__main__":
    main()
