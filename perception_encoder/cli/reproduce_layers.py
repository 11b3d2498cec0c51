"""`pe reproduce layers`: which layers serve which tasks, in small, and what that depends on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perception_encoder.cli import output
from perception_encoder.cli.progress import track
from perception_encoder.cli.reproduce_options import Jobs, Out, Photos, Runs

app = typer.Typer()


@app.command()
def layers(
    photos: Photos,
    scenes: Annotated[Path, typer.Option(help="Rendered scenes, train and test: segmentation, depth.")],
    clips: Annotated[Path, typer.Option(help="Videos with masks: DAVIS, or NAME.tar.")],
    rooms: Annotated[
        Path | None, typer.Option(help="Images with their depths; without them their task is left out.")
    ] = None,
    captions: Annotated[
        Path | None, typer.Option(help="Captions, as COCO's; without them their task is left out.")
    ] = None,
    towers: Annotated[
        Path | None, typer.Option(help="What `pe reproduce recipe` kept [default: towers, beside the JSON].")
    ] = None,
    runs: Runs = Path("runs/layers"),
    out: Out = Path("layers.json"),
    jobs: Jobs = 2,
) -> None:
    """Evaluate the layers of the built-in model and of the recipe in small's ends (section 3; an hour on 2 cores).

    Each is evaluated beside random weights, tracking beside colours alone too, heads with three seeds. Results are
    cached in the folder of the runs.

    Examples:

        pe data prepare scenes datasets
        pe data scenes -o scenes --models datasets/scenes/furniture.tar --count 300
        pe data scenes -o scenes --models datasets/scenes/furniture.tar --count 150 --split test
        pe reproduce layers --photos photos --scenes scenes --clips davis
    """
    from experiments.layers.page import page
    from experiments.layers.plot import draw
    from experiments.layers.run import reproduce_layers
    from experiments.layers.subjects import LayerData
    from perception_encoder.evaluation.report import write_text
    from perception_encoder.models.memory import keep_freed_memory

    keep_freed_memory()
    data = LayerData(photos=photos, scenes=scenes, rooms=rooms, clips=clips, captions=captions)
    result = reproduce_layers(out, runs, data, towers or out.parent / "towers", track=track, jobs=jobs)
    plot = out.with_suffix(".png")
    draw(result, plot)
    text = page(result, plot.name)
    write_text(out.with_suffix(".md"), text)
    output.print_line(text)
