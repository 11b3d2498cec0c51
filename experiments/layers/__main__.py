"""`python -m experiments.layers`: the layer analysis of section 3 in small."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from experiments.command_line import TOWERS, Jobs, Out, Photos, Runs, Towers, announce, run_experiment
from perception_encoder.cli.options import option


def layers(
    photos: Photos,
    scenes: Annotated[Path, option("Rendered scenes, train and test: segmentation and depth.", "DIR")],
    clips: Annotated[Path, option("Videos with masks: DAVIS, or a directory of NAME.tar.", "DIR")],
    rooms: Annotated[Path | None, option("Images with depth [default: without this task].", "PATH")] = None,
    captions: Annotated[Path | None, option("Captions as COCO's [default: without this task].", "FILE")] = None,
    towers: Towers = TOWERS,
    runs: Runs = Path("runs/layers"),
    out: Out = Path("layers.json"),
    jobs: Jobs = 2,
) -> None:
    """Repeat the layer analysis of section 3 in small.

    Evaluate the layers of the built-in model and of the first and last point of the recipe in small, next to random
    weights, and for tracking next to colours alone; heads have three seeds (an hour on 2 cores). Results are cached in
    the directory of the runs.

    Examples:

        python -m synthetic.furniture datasets
        python -m synthetic.scenes -o scenes --models datasets/scenes/furniture.tar --count 300
        python -m synthetic.scenes -o scenes --models datasets/scenes/furniture.tar --count 150 --split test
        python -m experiments.layers --photos photos --scenes scenes --clips davis
    """
    from experiments.layers.run import reproduce_layers
    from experiments.layers.tasks import LayerData
    from perception_encoder.cli.output import track

    data = LayerData(photos=photos, scenes=scenes, rooms=rooms, clips=clips, captions=captions)
    reproduce_layers(out, runs, data, towers, track=track, jobs=jobs)
    announce(out)


if __name__ == "__main__":
    run_experiment("layers", layers)
