"""`python -m synthetic.scenes`: render scenes with ground truth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from perception_encoder.cli import options, output
from perception_encoder.cli.options import flag, option
from perception_encoder.cli.output import track
from synthetic.command_line import run_command


def scenes(
    out: Annotated[Path, options.out_option("Directory of the dataset; OUT/SPLIT must be new or empty.", "OUT")],
    count: Annotated[int, option("Number of images or videos.", least=1)] = 1000,
    size: Annotated[int, option("Side of the images in pixels; even, from 16 to 1024.", "N")] = 128,
    seed: Annotated[int, option("Random seed.", least=0)] = 0,
    split: Annotated[str, option("Split of the models to use: train, val or test.", "NAME")] = "train",
    videos: Annotated[bool, flag("--videos", "Make videos instead of images.")] = False,
    frames: Annotated[int, option("Frames of a video, 8 per second; at least 16.", "N")] = 24,
    models: Annotated[Path | None, option("Models from `synthetic.furniture`, besides pybullet's.", "FILE")] = None,
    jobs: options.Jobs = None,
) -> None:
    """Render scenes with exact ground truth.

    Writes WebDataset tars OUT/SPLIT/00000.tar and so on, of KEY.jpg or KEY.mp4, KEY.depth.png (16 bit, millimetres),
    KEY.mask.png (0 is background, else the object's id) and KEY.json (boxes, cameras, captions, questions, tracks).
    Also writes OUT/SPLIT/instances.json (COCO) or OUT/SPLIT/videos.json (fields of the PE Video Dataset). No model is
    in two splits. The same seed gives the same bytes, with any number of processes. Needs the dependency group
    `synthetic`, and Python 3.11: pybullet has no wheels for later versions.

    Examples:

        python -m synthetic.scenes -o scenes --count 200
        python -m synthetic.scenes -o scenes --models datasets/scenes/furniture.tar --count 20000 --split train
        python -m synthetic.scenes -o clips --videos --count 100 --split test --models datasets/scenes/furniture.tar
    """
    from synthetic.scenes.samples.production import load_object_library, make_scenes
    from synthetic.scenes.samples.sample import ScenesConfig

    config = ScenesConfig(count=count, split=split, side=size, seed=seed, videos=videos, frames=frames)
    dataset = make_scenes(load_object_library(models), out, config, jobs, track)
    media = "videos" if videos else "images"
    counts = f"{dataset.samples} {media} of {dataset.objects} objects, {dataset.models} models, in {dataset.tars} tars"
    output.print_line(f"{counts}: {dataset.directory}")


if __name__ == "__main__":
    run_command("synthetic.scenes", scenes)
