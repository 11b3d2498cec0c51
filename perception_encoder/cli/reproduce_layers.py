"""`pe reproduce layers`: which layers serve which tasks, in small, and what that depends on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perception_encoder.cli import output
from perception_encoder.cli.progress import track
from perception_encoder.cli.reproduce_options import Drawings, Jobs, Out, Photos, Runs, show

app = typer.Typer()


@app.command()
def layers(
    photos: Photos,
    drawings: Drawings,
    scenes: Annotated[Path, typer.Option(help="Rendered scenes, train and test: segmentation, depth, detection.")],
    rooms: Annotated[Path, typer.Option(help="Pictures with their depths, a folder or a tar file.")],
    clips: Annotated[Path, typer.Option(help="Videos with masks: DAVIS, or NAME.tar.")],
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
    """Find where each task peaks in the built-in model, the recipe's ends and eight towers (section 3; 2½ hours).

    The towers are trained first, two hours on 2 cores: of 12 and 24 layers, with the class token or attention pooling,
    for two lengths. Each is measured beside random weights, tracking beside colours alone too. A tower and a model's
    answers are kept in the folder of the runs, and not made again.

    Examples:

        pe data prepare scenes datasets
        pe data scenes -o scenes --models datasets/scenes/furniture.tar --count 300
        pe data scenes -o scenes --models datasets/scenes/furniture.tar --count 150 --split test
        pe reproduce layers --photos photos --drawings datasets --scenes scenes --rooms livingroom.tar --clips davis
    """
    from perception_encoder.evaluation.report import write_text
    from perception_encoder.models.memory import keep_freed_memory
    from perception_encoder.recipes.layer_subjects import LayerData
    from perception_encoder.recipes.layers_page import page
    from perception_encoder.recipes.layers_plot import draw
    from perception_encoder.recipes.reproduce_layers import reproduce_layers
    from perception_encoder.recipes.reproduction import Place

    keep_freed_memory()
    place = Place(photos=photos, drawings=drawings, runs=runs, result=out)
    data = LayerData(photos=photos, scenes=scenes, rooms=rooms, clips=clips, captions=captions)
    kept = towers or out.parent / "towers"
    result = reproduce_layers(place, data, kept, track=track, listener=show, jobs=jobs)
    plot = out.with_suffix(".png")
    draw(result, plot)
    text = page(result, plot.name)
    write_text(out.with_suffix(".md"), text)
    output.print_line(text)
