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


def main() -> None:
    """Measure, print, and write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.parity", description="Write the parity table.")
    parser.add_argument("--all", action="store_true", help="the G models too")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON to write")
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


if __name__ == "__main__":
    main()
