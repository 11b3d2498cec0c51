"""`python -m experiments.video`: table 2 and figure 6 in small."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from experiments.command_line import Jobs, Out, Runs, announce, run_experiment
from perception_encoder.cli.options import option


def video(
    clips: Annotated[Path, option("Dataset of `python -m synthetic.video_dataset`.", "DIR")],
    photos: Annotated[Path | None, option("Test photographs [default: without this task].", "DIR")] = None,
    jobs: Jobs = 2,
    runs: Runs = Path("runs/video_in_small"),
    out: Out = Path("video.json"),
) -> None:
    """Repeat table 2 and figure 6 in small.

    Caption rendered clips with the engine, refine the captioner, and caption them again; then finetune the built-in
    encoder on title and description, on video captions, and on all, with two seeds (two hours on 2 cores). A stopped
    run resumes if the command is repeated.

    Examples:

        python -m synthetic.furniture datasets
        python -m synthetic.video_dataset -o clips --models datasets/scenes/furniture.tar --size 160
        python -m experiments.video --clips clips --photos photos
    """
    from experiments.video.run import reproduce_video
    from perception_encoder.cli.output import track

    reproduce_video(out, runs, clips, photos, track=track, jobs=jobs)
    announce(out)


if __name__ == "__main__":
    run_experiment("video", video)
