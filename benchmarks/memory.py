"""Peak memory of a training step of the built-in model by batch size, plain, in micro-batches, and recomputed.

    python -m benchmarks.memory [--out docs/results/memory.json]

Each value is the largest resident memory of a process of its own, which takes one whole step: forward, backward,
clipping, LAMB.
"""

from __future__ import annotations

import argparse
import platform
import resource
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.results import report
from perception_encoder.data.pairs import ImageTextBatch
from perception_encoder.models.checkpoints.weights import create_model
from perception_encoder.models.precision import fast_autocast, fast_dtype
from perception_encoder.models.registry import find_model
from perception_encoder.pretraining.task import ContrastiveTask
from perception_encoder.pretraining.towers import TrainingTowers
from perception_encoder.training.cost import tower_part
from perception_encoder.training.distributed import ParallelConfig, clip_gradients
from perception_encoder.training.optimizer import OptimizerConfig, build_optimizer

PIXELS, TOKENS, CHUNK = 96, 16, 64
MODES = {
    "plain": ParallelConfig(),
    "checkpointing": ParallelConfig(checkpointing=True),
    f"chunk {CHUNK}": ParallelConfig(chunk=CHUNK),
    f"chunk {CHUNK}, checkpointing": ParallelConfig(chunk=CHUNK, checkpointing=True),
}
BATCHES = (64, 128, 256, 512, 1024)
KIBI = 1 if sys.platform == "darwin" else 1024  # the unit of ru_maxrss


def peak(mode: str, batch_size: int) -> float:
    """Bytes of this process at their most, after one step; without a step for 0 pairs."""
    config, model = MODES[mode], create_model("builtin").train()
    model.set_grad_checkpointing(config.checkpointing)
    task = ContrastiveTask(TrainingTowers(model, chunk=config.chunk))
    optimizer = build_optimizer(task.model, OptimizerConfig())
    if batch_size:
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (batch_size, 3, PIXELS, PIXELS), dtype=torch.uint8, generator=generator)
        tokens = torch.randint(1, 49_000, (batch_size, TOKENS), generator=generator)
        tokens[:, -1] = 49_407
        batch = ImageTextBatch(images, tokens, *[torch.eye(batch_size, dtype=torch.bool)] * 2)
        with fast_autocast(torch.device("cpu")):
            loss = task.losses(batch)["contrastive"]
        loss.backward()
        clip_gradients(task.model.parameters(), 1.0)
        optimizer.step()
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIBI)


def measure() -> dict[str, dict[str, float]]:
    """Peaks by mode and batch size, each from a process of its own."""
    peaks: dict[str, dict[str, float]] = {}
    for mode in MODES:
        for batch_size in (0, *BATCHES):
            command = [sys.executable, "-m", "benchmarks.memory", "--one", mode, str(batch_size)]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            peaks.setdefault(mode, {})[str(batch_size)] = float(output)
            print(f"{mode}, {batch_size} pairs: {float(output) / 1e6:.0f} MB", flush=True)
    return peaks


def formulas(size: int) -> dict[str, float]:
    """Bytes of activations of a pair by mode, where they grow with the batch; `size`: of an element of a product."""
    entry = find_model("builtin")
    assert entry.text is not None
    towers = tower_part(entry.vision, PIXELS, element=size), tower_part(entry.text, TOKENS, element=size)
    modes = {"plain": False, "checkpointing": True}
    return {mode: sum(tower.held(recomputed) for tower in towers) for mode, recomputed in modes.items()}


def main() -> None:
    """Measure, then print the JSON or write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON to write [default: print it]")
    parser.add_argument("--one", nargs=2, metavar=("MODE", "PAIRS"), help="print the peak of this process, in bytes")
    arguments = parser.parse_args()
    if arguments.one:
        print(peak(arguments.one[0], int(arguments.one[1])))
        return
    dtype = str(fast_dtype(torch.device("cpu"))).removeprefix("torch.")
    machine = f"CPU, {dtype}, torch {torch.__version__}, Python {platform.python_version()}"
    command = "python -m benchmarks.memory --out docs/results/memory.json"
    result = {
        "command": command,
        "machine": machine,
        "pixels": PIXELS,
        "tokens": TOKENS,
        "formulas": formulas(2 if dtype == "bfloat16" else 4),
        "peaks": measure(),
    }
    report(result, arguments.out)


if __name__ == "__main__":
    main()
