"""The parity table: our largest relative error against the published reference, timm and open_clip, model by model.

Golden arrays are the reference code's own outputs, at the native and at another size; timm and open_clip run beside us
with the same random weights, at native sizes, values and gradients of every parameter. All in float32 on a CPU.

    python -m benchmarks.parity            # all but the G models
    python -m benchmarks.parity --all      # those too: about 12 GB of memory, half an hour or more on two cores
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from perception_encoder.models.registry import MODELS
from tests.models.oracles import OPEN_CLIP_MODELS, TIMM_MODELS, open_clip_errors, timm_errors
from tests.models.test_golden import NAMES, parity

RESULTS = Path(__file__).parent.parent / "docs" / "results" / "parity.json"


@dataclass(frozen=True)
class Row:
    """One model against one oracle."""

    model: str
    oracle: str
    compared: int
    """Arrays compared, gradients not counted."""
    values: float
    """Largest relative error of an array: norm of the difference over norm of the oracle's."""
    gradients: float | None
    """Largest relative error of a parameter's gradient; None where none were compared."""


def measure(name: str) -> Iterator[Row]:
    """Compare one model with every oracle that has it; gradients of all but the G models."""
    with_gradients = "-G14-" not in name
    if name in NAMES:
        yield row(name, "reference", parity(name))
    if name in TIMM_MODELS:
        yield row(name, "timm", timm_errors(name, with_gradients=with_gradients))
    if name in OPEN_CLIP_MODELS:
        yield row(name, "open_clip", open_clip_errors(name, with_gradients=with_gradients))


def row(model: str, oracle: str, errors: dict[str, float]) -> Row:
    """Sum up the errors by array."""
    gradients = [error for what, error in errors.items() if what.endswith("gradients")]
    values = [error for what, error in errors.items() if not what.endswith("gradients")]
    return Row(model, oracle, len(values), max(values), max(gradients, default=None))


def page(result: dict) -> str:
    """The results page of a measurement."""
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    lines = [
        "# Parity",
        "",
        "Largest relative error (norm of the difference over norm of the oracle's array) in float32 on a CPU.",
        "*reference*: outputs of the published code for weights and inputs made by formula, at the native size and",
        "at 8 × 12 patches: tokens of several layers, pooled images, text. *timm* and *open_clip*: run beside us",
        "with the same random weights, at the native size; gradients are those of every parameter. At other sizes",
        "timm resamples positions in its own way, 4–16 % away from the reference; ours are the reference's.",
        "The PE-Lang-…-Tiling models have the architecture of PE-Lang-….",
        "",
        f"Made by `{result['command']}` with {versions}.",
        "",
        "| model | oracle | arrays | values | gradients |",
        "|---|---|---:|---:|---:|",
    ]
    for entry in result["rows"]:
        gradients = "–" if entry["gradients"] is None else f"{entry['gradients']:.1e}"
        cells = (entry["model"], entry["oracle"], entry["compared"], f"{entry['values']:.1e}", gradients)
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, and write parity.json and parity.md."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.parity", description="Write the parity table.")
    parser.add_argument("--all", action="store_true", help="the G models too")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the JSON file; the page goes beside it")
    options = parser.parse_args()
    rows = []
    for name in MODELS:
        if options.all or "-G14-" not in name:
            for measured in measure(name):
                print(measured, file=sys.stderr, flush=True)
                rows.append(asdict(measured))
                gc.collect()
    result = {
        "command": "python -m benchmarks.parity" + " --all" * options.all,
        "versions": {name: version(name) for name in ("torch", "timm", "open_clip_torch")},
        "rows": rows,
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    options.out.with_suffix(".md").write_text(page(result), encoding="utf-8")


if __name__ == "__main__":
    main()
