"""`pe data scenes`, and what `pe data prepare scenes` fetches for it; both are commands of `pe data`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perception_encoder.cli import output
from perception_encoder.cli.progress import track


def scenes(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the set; OUT/SPLIT must be new or empty.")],
    count: Annotated[int, typer.Option(min=1, help="How many pictures or videos.")] = 1000,
    size: Annotated[int, typer.Option(help="Side of the pictures, in pixels; even, from 16 to 1024.")] = 128,
    seed: Annotated[int, typer.Option(min=0, help="Other seeds make other scenes.")] = 0,
    split: Annotated[str, typer.Option(help="Whose models are shown: train, val or test.")] = "train",
    videos: Annotated[bool, typer.Option("--videos", help="Videos in place of pictures.")] = False,
    frames: Annotated[int, typer.Option(help="Frames of a video, 8 a second.")] = 24,
    models: Annotated[
        Path | None, typer.Option(help="Library that `pe data prepare scenes` made; pybullet's own are always there.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Rendering processes [default: one a core].")] = None,
) -> None:
    """Render scenes with exact ground truth: depth, masks, boxes, cameras, captions, questions, tracks.

    Writes WebDataset tars OUT/SPLIT/00000.tar and so on, of KEY.jpg or KEY.mp4, KEY.depth.png (16 bit, millimetres),
    KEY.mask.png (0 is background, else the object's id) and KEY.json; beside them OUT/SPLIT/instances.json (COCO) or
    OUT/SPLIT/videos.json (fields of the PE Video Dataset). A model is in one split for good. The same seed makes the
    same bytes, whatever the number of processes. Needs the extra `scenes`, and Python 3.11: pybullet has no
    wheel for later ones.

    Examples:

        pe data scenes -o scenes --count 200
        pe data scenes -o scenes --models datasets/scenes/furniture.tar --count 20000 --split train
        pe data scenes -o clips --videos --count 100 --split test --models datasets/scenes/furniture.tar
    """
    from perception_encoder.scenes.production import ScenesConfig, load_models, make_scenes

    config = ScenesConfig(count=count, split=split, side=size, seed=seed, videos=videos, frames=frames)
    made = make_scenes(load_models(models), out, config, jobs, track)
    what = "videos" if videos else "pictures"
    said = f"{made.samples} {what} of {made.things} things, {made.models} models, in {made.tars} tars"
    output.print_line(f"{said}: {made.folder}")


def prepare_models(word: Path, out: Path | None, jobs: int | None) -> int:
    """Fetch the furniture and make its library in `out`; returns the exit status. `word` must be `scenes`."""
    from perception_encoder.scenes.furniture import prepare_furniture

    if str(word) != "scenes":
        raise typer.BadParameter(f"two folders, {word} and {out}; only the word `scenes` may stand before OUT")
    made = prepare_furniture(out or Path("datasets"), jobs, track)
    if made.finished_before:
        output.print_line(f"done before: {made.path}; delete it to make it anew")
        return output.OK
    output.print_line(f"{made.models} models: {made.path}")
    return output.report_skipped(made.failures, made.models + len(made.failures))
