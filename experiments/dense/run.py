"""Evaluate the built-in models' features on dense tasks: Core's layers, Spatial's last, and colours where they serve.

Heads are fitted on frozen features of rendered scenes, each with three seeds, and tested on scenes of other objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from experiments.dense_tasks import read_dense_tasks
from experiments.differences import gain
from experiments.layers.evaluation import evaluate_tasks, unpack
from experiments.layers.run import curve_rows
from perception_encoder.files import write_json
from perception_encoder.inference.layer_features import LayerFeatures
from perception_encoder.inference.load import load_layers
from perception_encoder.layer_analysis.sweep import COLOURS, ColourTowers, LayerCurve
from perception_encoder.layer_analysis.tasks import LayerTask
from perception_encoder.models.registry import BUILTIN, BUILTIN_SPATIAL
from perception_encoder.progress import Track, untracked

CORE, SPATIAL = "Core", "Spatial"
LAST, BEST = "Core's last", "Core's best"
TRACKING = "tracking of real videos"


@dataclass(frozen=True, kw_only=True)
class DenseData:
    """The paths of all data."""

    scenes: Path
    """Rendered scenes, train and test."""
    clips: Path
    """Real videos with masks."""
    room: Path | None = None
    """Images with depth in metres; without them their task is left out."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is evaluated."""

    items: int = 100
    """Test images of a task; heads are fitted on twice as many."""
    side: int = 224
    """Pixels that an image is squashed to."""
    short_side: int = 480
    """Pixels of a frame's short side."""
    layers: Sequence[int] = (5, 8, 11)
    """Core's, 0-based, the last among them."""


def compare_features(
    result: Path, runs: Path, data: DenseData, sizes: Sizes | None = None, track: Track = untracked
) -> dict[str, Any]:
    """Evaluate what is not cached in `runs`, write the whole result as JSON, and return it.

    Raises DataError for missing data, before anything is evaluated, and what `run_sweep` does.
    """
    sizes = sizes or Sizes()
    tasks = read_tasks(data, sizes)
    core, spatial = load_layers(BUILTIN), load_layers(BUILTIN_SPATIAL)
    core.name, spatial.name = CORE, SPATIAL
    by_colour = {TRACKING: tasks[TRACKING]} if TRACKING in tasks else {}
    curves = {
        CORE: unpack(CORE, evaluate_tasks(core, tasks, list(sizes.layers), runs, track)),
        SPATIAL: unpack(SPATIAL, evaluate_tasks(spatial, tasks, [spatial.depth - 1], runs, track)),
        COLOURS: unpack(COLOURS, evaluate_tasks(LayerFeatures(ColourTowers(core)), by_colour, [0], runs, track)),
    }
    value = {
        "sizes": asdict(sizes),
        "curves": curve_rows(curves, {}),
        "differences": [row for task in curves[CORE] for row in differences(task, curves)],
    }
    write_json(result, value, indent=1)
    return value


def read_tasks(data: DenseData, sizes: Sizes) -> dict[str, LayerTask]:
    """Read the tasks' data; DataError for what is missing."""
    tasks = {
        TRACKING: ("tracking", data.clips),
        "segmentation": ("foreground", data.scenes),
        "depth": ("relative-depth", data.scenes),
        "depth of a room": ("depth", data.room),
        "detection": ("objects", data.scenes),
    }
    return read_dense_tasks(tasks, sizes.items, sizes.side, sizes.short_side)


def differences(task: str, curves: Mapping[str, Mapping[str, LayerCurve]]) -> Iterator[dict[str, Any]]:
    """Yield how much better Spatial's last layer is than Core's last, Core's best and colours, with intervals."""
    spatial, core = curves[SPATIAL][task], curves[CORE][task]
    others = {LAST: core.scores[core.last], BEST: core.scores[core.best]}
    if task in curves[COLOURS]:
        others[COLOURS] = curves[COLOURS][task].scores[0]
    aligned = spatial.scores[spatial.last]
    for name, other in others.items():
        yield {"task": task, "against": name, **gain(aligned, other)}
