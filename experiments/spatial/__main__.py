"""`python -m experiments.spatial`: table 13 and figures 16 and 17 in small."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from experiments.command_line import Out, Runs, announce, run_experiment
from perception_encoder.cli.options import option


def spatial(
    photos: Annotated[Path, option("Photographs to align on: a directory, or one of tars.", "DIR")],
    scenes: Annotated[Path, option("Rendered scenes, train and test.", "DIR")],
    clips: Annotated[Path, option("Videos with masks: DAVIS, or a directory of NAME.tar.", "DIR")],
    videos: Annotated[Path | None, option("Rendered videos with masks [default: without this task].", "DIR")] = None,
    runs: Runs = Path("runs/spatial_in_small"),
    out: Out = Path("spatial.json"),
) -> None:
    """Repeat table 13 and figures 16 and 17 in small.

    Align the built-in encoder to its own layer, to masks, and to both; then evaluate its layers before and after on
    tracking, segmentation, depth and detection. Heads have three seeds (two hours and a half on 2 cores). A stopped run
    resumes if the command is repeated.

    Examples:

        python -m synthetic.furniture datasets
        python -m synthetic.scenes -o scenes --models datasets/scenes/furniture.tar --count 5000 --size 320
        python -m synthetic.scenes -o scenes --models datasets/scenes/furniture.tar --count 300 --size 320 --split test
        python -m experiments.spatial --photos photos/train --scenes scenes --clips davis
    """
    from experiments.spatial.run import SpatialData, draw_examples, reproduce_spatial
    from perception_encoder.cli.output import track

    data = SpatialData(photos=photos, scenes=scenes, clips=clips, videos=videos)
    reproduce_spatial(out, runs, data, track=track)
    draw_examples(runs, data, out.with_name(f"{out.stem}_features.png"), track=track)
    announce(out)


if __name__ == "__main__":
    run_experiment("spatial", spatial)
