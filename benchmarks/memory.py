"""Peak memory of a training step of the built-in model by batch size, plain, in micro-batches, and recomputed.

    python -m benchmarks.memory [--out docs/results/memory.json]

Each value is the largest resident memory of a process of its own, which takes one whole step: forward, backward,
clipping, LAMB. With --out, a plot is drawn beside the page (it needs the extra `eval`).
"""

from __future__ import annotations

import argparse
import platform
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.results import report
from perception_encoder.data.batch import ImageTextBatch
from perception_encoder.models.checkpoints.weights import create_model
from perception_encoder.models.precision import fast_autocast, fast_dtype
from perception_encoder.models.registry import find_model
from perception_encoder.pretraining.task import ContrastiveTask
from perception_encoder.pretraining.towers import Towers
from perception_encoder.training.cost import text_cost, vision_cost
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
    task = ContrastiveTask(Towers(model, chunk=config.chunk))
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
    towers = vision_cost(entry.vision, PIXELS, size), text_cost(entry.text, TOKENS, size)
    modes = {"plain": False, "checkpointing": True}
    return {mode: sum(tower.held(recomputed) for tower in towers) for mode, recomputed in modes.items()}


def page(result: dict[str, Any]) -> str:
    """The results page of a run's JSON."""
    peaks = result["peaks"]
    sizes = [size for size in next(iter(peaks.values())) if size != "0"]
    first, last = sizes[1], sizes[-1]
    rows = []
    for mode, by_size in peaks.items():
        each = (by_size[last] - by_size[first]) / (int(last) - int(first))
        cells = " | ".join(f"{by_size[size] / 1e6:,.0f}" for size in sizes)
        formula = result["formulas"].get(mode)
        rows.append(f"| {mode} | {cells} | {each / 1e6:.2f} | {f'{formula / 1e6:.2f}' if formula else '–'} |")
    idle = max(by_size["0"] for by_size in peaks.values())
    return "\n".join(
        [
            "# Memory of a training step",
            "",
            f"One step of the built-in model at {result['pixels']} px with captions of {result['tokens']} tokens,"
            f" {result['machine']}. Written by `{result['command']}`.",
            "",
            f"Largest resident memory in MB by pairs a batch. Before a step it is {idle / 1e6:,.0f} MB: Python, torch,"
            " the weights.",
            "",
            f"| | {' | '.join(sizes)} | MB a further pair | activations by formula |",
            f"|---|{'---|' * (len(sizes) + 2)}",
            *rows,
            "",
            "![Memory by batch size, a line for each way](memory.svg)",
            "",
            "With micro-batches (`--set parallel.chunk=64`) memory hardly grows with the batch: activations are those"
            " of one micro-batch, and a further pair costs its pixels, its features and its row of logits. Losses and"
            " gradients are the same (`tests/training/test_distributed.py`). `pe train RECIPE --plan` computes a"
            " device's memory from formulas, which `tests/training/test_cost.py` compares with what autograd saves;"
            " they assume fused attention, as on a GPU.",
            "",
        ]
    )


def draw(result: dict[str, Any], path: Path) -> None:
    """Plot the peaks over batch sizes, both on logarithmic scales."""
    import matplotlib

    matplotlib.rcParams["svg.hashsalt"] = "memory"  # the same values make the same file
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="pairs a batch", ylabel="peak memory in GB", xscale="log", yscale="log")
    for mode, by_size in result["peaks"].items():
        sizes = [size for size in by_size if size != "0"]
        axes.plot([int(size) for size in sizes], [by_size[size] / 1e9 for size in sizes], marker="o", label=mode)
    ticks = [int(size) for size in next(iter(result["peaks"].values())) if size != "0"]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_yticks([1, 2, 4], ["1", "2", "4"])
    axes.set_yticks([], minor=True)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Measure, print, and write the JSON, its page and its plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON to write; its page and plot are written beside it")
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
    report(result, page, arguments.out)
    if arguments.out is not None:
        draw(result, arguments.out.with_suffix(".svg"))


if __name__ == "__main__":
    main()
