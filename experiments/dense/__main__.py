"""`python -m experiments.dense`: dense tasks on the built-in Core and Spatial models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from experiments.command_line import Out, Runs, announce, run_experiment
from perception_encoder.cli.options import option


def dense(
    scenes: Annotated[Path, option("Rendered scenes, train and test.", "DIR")],
    clips: Annotated[Path, option("Videos with masks: DAVIS, or a directory of NAME.tar.", "DIR")],
    room: Annotated[Path | None, option("Images with depth in metres [default: without this task].", "PATH")] = None,
    runs: Runs = Path("runs/dense_in_small"),
    out: Out = Path("dense.json"),
) -> None:
    """Compare features for dense tasks.

    Evaluate the built-in Core model's layers and the built-in Spatial model's output on tracking, segmentation, depth
    and detection, with frozen features and three seeds of each head; tracking beside colours alone (about an hour on a
    core). A stopped run resumes if the command is repeated.

    Examples:

        python -m synthetic.scenes -o scenes --models datasets/scenes/furniture.tar --count 3000 --size 320
        python -m synthetic.scenes -o scenes --models datasets/scenes/furniture.tar --count 300 --size 320 --split test
        python -m experiments.dense --scenes scenes --clips davis --room livingroom.tar
    """
    from experiments.dense.run import DenseData, compare_features
    from perception_encoder.cli.output import track

    data = DenseData(scenes=scenes, clips=clips, room=room)
    compare_features(out, runs, data, track=track)
    announce(out)


if __name__ == "__main__":
    run_experiment("dense", dense)
