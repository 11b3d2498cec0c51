"""Images a second of `Encoder` beside timm's and open_clip's vision towers, in one run.

    python -m benchmarks.encode [--rounds 9] [--no-compile] [--out docs/results/encode.json]

All have random weights and encode the same 32 images of 224 px: `Encoder` from uint8 arrays to vectors, as a user
would call it, the peers from ready tensors, 8 at a time. The rounds go through all contenders in turn, so that the
machine's noise falls on all alike. The limit is what the bare matrix products of the forward pass allow.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.embed import take_turns
from benchmarks.results import machine, report
from perception_encoder.inference.encoder import Encoder
from perception_encoder.models.checkpoints.weights import create_model
from perception_encoder.models.config import VisionConfig
from perception_encoder.models.registry import find_model

NAME, TIMM, OPEN_CLIP = "PE-Core-B16-224", "vit_pe_core_base_patch16_224", "PE-Core-B-16"
IMAGES, BATCH = 32, 8
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
DEFAULT = "Encoder, default"

Run = Callable[[], object]


def contenders(compiled: bool) -> dict[str, Run]:
    """Calls that encode all images once, by label."""
    import open_clip
    import timm

    model = create_model(NAME)
    side = find_model(NAME).vision.image_size
    generator = np.random.default_rng(0)
    arrays = [generator.integers(0, 256, (side, side, 3), dtype=np.uint8) for _ in range(IMAGES)]
    default_encoder = Encoder(model)
    runs: dict[str, Run] = {DEFAULT: lambda: default_encoder.encode_images(arrays)}
    towers = {
        "timm": timm.create_model(TIMM, num_classes=find_model(NAME).vision.output_dim).eval(),
        "open_clip": open_clip.create_model(OPEN_CLIP).visual.eval(),
    }
    pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float().div(127.5).sub(1)
    for precision, dtype in TYPES.items():
        encoder = Encoder(model, dtype=dtype)
        runs[f"Encoder, {precision}"] = lambda encoder=encoder: encoder.encode_images(arrays)
        for peer, tower in towers.items():
            module = copy.deepcopy(tower).to(dtype)
            batches = pixels.to(dtype).split(BATCH)
            runs[f"{peer}, {precision}, eager"] = lambda module=module, batches=batches: [module(x) for x in batches]
            if compiled:
                fast = torch.compile(module)
                runs[f"{peer}, {precision}, compiled"] = lambda fast=fast, batches=batches: [fast(x) for x in batches]
    for precision, dtype in TYPES.items():
        runs[f"limit, {precision}"] = matrix_products(find_model(NAME).vision, dtype)
    return runs


def matrix_products(config: VisionConfig, dtype: torch.dtype) -> Run:
    """The matrix products of the blocks alone, on the shapes of all images."""
    tokens, width, head = config.grid**2 + int(config.class_token), config.width, config.width // config.heads
    x, hidden = (torch.randn(BATCH * tokens, size, dtype=dtype) for size in (width, config.mlp_width))
    shapes = ((3 * width, x), (width, x), (config.mlp_width, x), (width, hidden))
    weights = [(torch.randn(rows, inputs.shape[1], dtype=dtype), inputs) for rows, inputs in shapes]
    queries, keys = (torch.randn(BATCH * config.heads, tokens, head, dtype=dtype) for _ in range(2))

    def run() -> None:
        for _ in range(config.depth * IMAGES // BATCH):
            for weight, inputs in weights:
                F.linear(inputs, weight)
            torch.bmm(torch.bmm(queries, keys.transpose(1, 2)), keys)

    return run


def main() -> None:
    """Measure, then print the JSON or write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--no-compile", action="store_true", help="leave out the compiled peers (minutes to compile)")
    parser.add_argument("--out", type=Path, help="JSON to write [default: print it]")
    arguments = parser.parse_args()
    runs = contenders(not arguments.no_compile)
    with torch.inference_mode():
        speeds = take_turns(NAME, runs, IMAGES, arguments.rounds)
    result = {"command": "python -m benchmarks.encode", "machine": machine(), "speeds": speeds}
    report(result, arguments.out)


if __name__ == "__main__":
    main()
