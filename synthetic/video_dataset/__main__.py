"""`python -m synthetic.video_dataset`: a released dataset of rendered videos, by seed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from perception_encoder.cli import options, output
from perception_encoder.cli.options import option
from perception_encoder.cli.output import track
from synthetic.command_line import run_command


def build(
    out: Annotated[Path, options.out_option("New directory of the dataset.", "OUT")],
    count: Annotated[int, option("Videos of all splits together.", least=10)] = 2000,
    seed: Annotated[int, option("Random seed.", least=0)] = 0,
    size: Annotated[int, option("Side of the frames in pixels; even, from 16 to 1024.", "N")] = 128,
    frames: Annotated[int, option("Frames of a video, 8 per second; at least 16.", "N")] = 24,
    models: Annotated[Path | None, option("Models from `synthetic.furniture`, besides pybullet's.", "FILE")] = None,
    captioner: Annotated[str | None, option("Language model for captions [default: simulated].", "MODEL")] = None,
    jobs: options.Jobs = None,
) -> None:
    """Build a dataset of rendered videos.

    In the layout of the PE Video Dataset: train, test (other objects) and extended, with model captions, refined
    captions, categories, scores and a data card. Refined captions are of a simulated annotator that removes, corrects
    and adds against the scene's truth; they are labelled `simulated`, never `human`. The same seed gives the same
    bytes, with any number of processes. Needs the dependency group `synthetic` and Python 3.11.

    Examples:

        python -m synthetic.video_dataset -o clips --models datasets/scenes/furniture.tar
        python -m synthetic.video_dataset -o clips --count 100 --captioner builtin-lang
    """
    from perception_encoder.language_models.load import load_assistant
    from synthetic.scenes.samples.production import load_object_library
    from synthetic.video_dataset.build import BuildConfig, build_dataset

    config = BuildConfig(count=count, seed=seed, side=size, frames=frames)
    model = load_assistant(captioner) if captioner else None
    statistics = build_dataset(load_object_library(models), out, config, model, jobs, track)
    output.print_demo(captioner)
    table = statistics.splits["all"]
    output.print_line(f"{table.videos:,} videos, {table.refined:,} with refined captions (simulated): {out}")


if __name__ == "__main__":
    run_command("synthetic.video_dataset", build)
