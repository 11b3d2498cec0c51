"""`pe data scenes`, and the models that `pe data prepare scenes` fetches for it; both are commands of `pe data`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perception_encoder.cli import output
from perception_encoder.cli.progress import track


def scenes(
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory; OUT/SPLIT must be new or empty.")],
    count: Annotated[int, typer.Option(min=1, help="Number of images or videos.")] = 1000,
    size: Annotated[int, typer.Option(help="Side of the images in pixels; even, from 16 to 1024.")] = 128,
    seed: Annotated[int, typer.Option(min=0, help="Another seed makes other scenes.")] = 0,
    split: Annotated[str, typer.Option(help="Split of the models to use: train, val or test.")] = "train",
    videos: Annotated[bool, typer.Option("--videos", help="Make videos instead of images.")] = False,
    frames: Annotated[int, typer.Option(help="Frames of a video, 8 a second; at least 16.")] = 24,
    models: Annotated[
        Path | None, typer.Option(help="Library from `pe data prepare scenes`; pybullet's objects are always used.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Rendering processes [default: one a core].")] = None,
) -> None:
    """Render scenes with exact ground truth.

    Writes WebDataset tars OUT/SPLIT/00000.tar and so on, of KEY.jpg or KEY.mp4, KEY.depth.png (16 bit, millimetres),
    KEY.mask.png (0 is background, else the object's id) and KEY.json (boxes, cameras, captions, questions, tracks).
    Also writes OUT/SPLIT/instances.json (COCO) or OUT/SPLIT/videos.json (fields of the PE Video Dataset). No model is
    in two splits. The same seed makes the same bytes, with any number of processes. Needs the extra `scenes`, and
    Python 3.11: pybullet has no wheel for later ones.

    Examples:

        pe data scenes -o scenes --count 200
        pe data scenes -o scenes --models datasets/scenes/furniture.tar --count 20000 --split train
        pe data scenes -o clips --videos --count 100 --split test --models datasets/scenes/furniture.tar
    """
    from perception_encoder.scenes.samples.production import load_object_library, make_scenes
    from perception_encoder.scenes.samples.sample import ScenesConfig

    config = ScenesConfig(count=count, split=split, side=size, seed=seed, videos=videos, frames=frames)
    written = make_scenes(load_object_library(models), out, config, jobs, track)
    media = "videos" if videos else "images"
    counts = f"{written.samples} {media} of {written.objects} objects, {written.models} models, in {written.tars} tars"
    output.print_line(f"{counts}: {written.directory}")


def prepare_models(word: Path, out: Path | None, jobs: int | None) -> int:
    """Fetch the furniture and write its library to `out`; returns the exit status. `word` must be `scenes`."""
    from perception_encoder.scenes.objects.furniture import prepare_furniture

    if str(word) != "scenes":
        raise typer.BadParameter(f"two directories, {word} and {out}; only the word `scenes` is allowed before OUT")
    prepared = prepare_furniture(out or Path("datasets"), jobs, track)
    if prepared.finished_before:
        output.print_line(f"{prepared.path} exists; delete it to make it again")
        return output.OK
    output.print_line(f"{prepared.models} models: {prepared.path}")
    return output.report_skipped(prepared.failures, prepared.models + len(prepared.failures))
