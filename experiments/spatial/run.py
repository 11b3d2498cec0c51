"""Repeat table 13 and figures 16 and 17 in small: align the built-in encoder, and evaluate layers before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from experiments.dense_tasks import read_dense_tasks
from experiments.differences import gain
from experiments.layers.evaluation import evaluate_tasks, unpack
from experiments.layers.run import curve_rows
from experiments.spatial.alignments import ALIGNED, CORE, Alignments, find_encoder
from perception_encoder.dense_prediction.predictions import write_image
from perception_encoder.files import write_json
from perception_encoder.inference.load import load_layers
from perception_encoder.inference.samples import write_samples
from perception_encoder.layer_analysis.plots import features_side_by_side
from perception_encoder.layer_analysis.sweep import LayerCurve
from perception_encoder.layer_analysis.tasks import LayerTask
from perception_encoder.preprocess.image import open_image
from perception_encoder.progress import Track, untracked
from synthetic.scenes.samples.reading import read_scene_tars

PHOTOGRAPHS = ("chelsea.png", "rocket.jpg")
"""Of scikit-image, in the public domain."""
LAYERS = [5, 8, 11]
"""Evaluated ones, 0-based: the last, and the one that the alignments learn from, among them."""


@dataclass(frozen=True, kw_only=True)
class SpatialData:
    """The paths of all data."""

    photos: Path
    """Images to align on, beside the scenes."""
    scenes: Path
    """Rendered scenes, train and test."""
    clips: Path
    """Real videos with masks."""
    videos: Path | None = None
    """Rendered videos with masks; without them their task is left out."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is trained and tested."""

    alignments: Alignments = field(default_factory=Alignments)
    items: int = 100
    """Test images of a task; heads are fitted on twice as many."""
    side: int = 224
    short_side: int = 480
    """Pixels of a frame's short side."""
    layers: Sequence[int] = tuple(LAYERS)


def reproduce_spatial(
    result: Path, runs: Path, data: SpatialData, sizes: Sizes | None = None, track: Track = untracked
) -> dict[str, Any]:
    """Run what is not cached in `runs`, write the whole result as JSON, and return it.

    Raises DataError for missing data, before anything is trained, and what `align_spatially` and `run_sweep` do.
    """
    sizes = sizes or Sizes()
    tasks = read_tasks(data, sizes)
    curves: dict[str, dict[str, LayerCurve]] = {}
    for name in (CORE, *ALIGNED):
        source = find_encoder(name, runs, [data.photos, data.scenes], sizes.alignments, track)
        encoder = load_layers(source)
        encoder.name = name
        curves[name] = unpack(name, evaluate_tasks(encoder, tasks, list(sizes.layers), runs, track))
    value = {
        "sizes": asdict(sizes),
        "curves": curve_rows(curves, {}),
        "differences": [row for task in curves[CORE] for row in compare(task, curves)],
    }
    write_json(result, value, indent=1)
    return value


def draw_examples(
    runs: Path, data: SpatialData, path: Path, sizes: Sizes | None = None, track: Track = untracked
) -> None:
    """Draw the features of a test scene and two sample photographs by the encoders of `reproduce_spatial`."""
    sizes = sizes or Sizes()
    sources = [data.photos, data.scenes]
    files = [find_encoder(name, runs, sources, sizes.alignments, track) for name in (CORE, *ALIGNED)]
    encoders = [load_layers(file) for file in files]
    (scene,) = islice(read_scene_tars(sorted((data.scenes / "test").glob("*.tar"))), 1)
    gallery, _ = write_samples(runs / "samples")
    images = [open_image(scene.image, scene.where), *(open_image(gallery / name) for name in PHOTOGRAPHS)]
    write_image(features_side_by_side(encoders, images, cell=200), path)


def read_tasks(data: SpatialData, sizes: Sizes) -> dict[str, LayerTask]:
    """Read the tasks' data; DataError for what is missing."""
    tasks = {
        "tracking of real videos": ("tracking", data.clips),
        "tracking of rendered videos": ("rendered-tracking", data.videos),
        "segmentation": ("foreground", data.scenes),
        "depth": ("relative-depth", data.scenes),
        "detection": ("objects", data.scenes),
    }
    return read_dense_tasks(tasks, sizes.items, sizes.side, sizes.short_side)


def compare(task: str, curves: Mapping[str, Mapping[str, LayerCurve]]) -> list[dict[str, Any]]:
    """How much better each aligned encoder's last layer is than Core's last and best, with intervals."""
    core, rows = curves[CORE][task], []
    for name in ALIGNED:
        curve = curves[name][task]
        for against, layer in (("last", core.last), ("best", core.best)):
            row = {"task": task, "model": name, "against": against, "layer": layer}
            rows.append({**row, **gain(curve.scores[curve.last], core.scores[layer])})
    return rows
