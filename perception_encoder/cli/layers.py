"""`pe layers` and `pe features`: evaluate every layer of a model, and draw the features of an image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from perception_encoder.cli import options, output
from perception_encoder.cli.options import DATASET, OUTPUT, argument, flag, option
from perception_encoder.cli.output import track
from perception_encoder.errors import ConfigError
from perception_encoder.inference.model_spec import DEFAULT
from perception_encoder.models.defaults import default_model


def layers(
    model: options.LayeredSpec,
    data: Annotated[list[str], option("Dataset of a task, or of all tasks; repeat for more.", "[TASK=]PATH", DATASET)],
    tasks: Annotated[str, option("Tasks, separated by commas.", "NAMES", DATASET)] = "classification,retrieval",
    layer: Annotated[str, option("Layers, such as 0,5,-1; the last is added [default: all].", "N,N,...")] = "",
    baseline: Annotated[list[str] | None, option("Further models to plot [default: random weights].", "MODEL")] = None,
    items: Annotated[int, option("Maximum number of images per task.", panel=DATASET, least=2)] = 1000,
    size: options.Size = None,
    short_side: Annotated[int, option("Short side of tracking's frames, in pixels.", least=16, advanced=True)] = 240,
    per_metre: options.PerMetre = 1000.0,
    final_norm: options.FinalNorm = False,
    similarity: Annotated[bool, flag("--similarity", "Also compare the layers of all models by CKA and RSA.")] = False,
    out: Annotated[Path, options.out_option("Directory of the report.", "DIR")] = Path("layers"),
    store: Annotated[
        Path | None, option("Cache of the features [default: OUT/features].", "DIR", OUTPUT, advanced=True)
    ] = None,
) -> None:
    """Evaluate all layers; recommend one per task.

    One pass caches the features of all layers; then each task is evaluated layer by layer. An interrupted run resumes,
    and further tasks use the cache. Writes OUT/report.html (curves, the best layer against the last, recommendations
    for `pe embed --layer`), curves.png, layers.csv and layers.json.

    Tasks and their datasets: classification, retrieval (labelled images or videos), segmentation (ADE20K, images/
    with masks/), depth (NYU, KEY.jpg with KEY.depth.png), tracking (DAVIS), detection (COCO, LVIS, YOLO's data.yaml);
    with the extra `lang`, also the datasets of `pe eval questions` about single images, by a small language model
    fitted on the split `train`. Needs the extra `eval`. Status 1: images failed.

    Examples:

        pe layers builtin --data photos
        pe layers PE-Core-B16-224 --tasks classification,tracking --data classification=imagenet --data tracking=DAVIS
        pe layers builtin --tasks vqav2,coco --data vqav2=VQAv2 --data coco=coco --items 500 --layer 2,5,8
        pe layers timm:vit_small_patch14_dinov2 --size 224 --baseline builtin --data photos --similarity
    """
    arguments = options.without(locals(), "model", "data", "tasks", "layer", "size")
    from perception_encoder.api import analyze_layers
    from perception_encoder.models.memory import keep_freed_memory

    keep_freed_memory()
    report = analyze_layers(
        model,
        read_paths(data),
        tasks=options.items_of(tasks),
        layer=options.read_layers(layer) if layer else None,
        size=options.image_size(size),
        **arguments,
        progress=track,
    )
    rows = [(item.curve.task, item.curve.metric, item.text()) for item in report.recommendations]
    output.print_table(("task", "metric", "recommendation"), rows, title=report.sweeps[0].model)
    for note in report.notes:
        output.print_warning(note)
    output.print_line(f"written: {', '.join(map(str, report.files))}")
    output.print_demo(str(model.name), *(baseline or ()))
    raise typer.Exit(output.report_skipped(report.sweeps[0].failures, report.sweeps[0].images))


def read_paths(data: list[str]) -> dict[str, str | Path]:
    """Read "TASK=PATH" and "PATH" as paths by task, that of all tasks under ""; ConfigError for two of the latter."""
    pairs = [(task.strip(), path) if path else ("", task) for task, _, path in (item.partition("=") for item in data)]
    if sum(not task for task, _ in pairs) > 1:
        raise ConfigError("only one dataset can be for all tasks; name the tasks of the others: TASK=PATH")
    return {task: Path(path) for task, path in pairs}


def features(
    image: Annotated[Path, argument("IMAGE", "An image file.")],
    out: Annotated[Path, options.out_option("PNG file to write.")],
    model: options.DrawnSpec = DEFAULT,
    layer: Annotated[str, option("Layers, such as 0,5,-1 [default: about six].", "N,N,...")] = "",
    at: Annotated[str, option("The point to compare with, from 0,0 (top left) to 1,1.", "X,Y")] = "0.5,0.5",
    baseline: Annotated[list[str] | None, option("Model to draw beside it; repeat for more.", "MODEL")] = None,
) -> None:
    """Draw features of an image, layer by layer.

    Rows: features (three principal components as lightness, chroma and hue, as in the paper), similarity to a point,
    attention of that point, attention that each patch receives, and norms of the tokens; below them norms, and
    attention to global tokens, over all layers. Prints the first layer with global tokens. Needs the extra `plot`,
    except for --baseline.

    With --baseline, draws the image and beside it the feature map of one layer, by default the last, of each model, at
    512 px or above, as the paper draws Core and Spatial.

    Examples:

        pe features cup.jpg -o features.png
        pe features cup.jpg --layer 3,7,11 --at 0.3,0.6 -o features.png
        pe features cup.jpg -m PE-Spatial-L14-448 --baseline PE-Core-L14-336 -o both.png
    """
    from perception_encoder.layer_analysis.plots import draw_features

    names = [str(model.name or default_model()), *(baseline or ())]
    models = [replace(model, name=name) for name in names]
    layers = options.read_layers(layer) if layer else None
    output.print_line(draw_features(image, out, models, layers, read_point(at)))
    output.print_line(f"written: {out}")
    output.print_demo(*names)


def read_point(text: str) -> tuple[float, float]:
    """Read two comma-separated numbers; ConfigError for anything else."""
    try:
        x, y = options.numbers(text)
    except (ConfigError, ValueError):
        raise ConfigError(f"--at is {text!r}; it must be two numbers separated by a comma, such as 0.5,0.5") from None
    return x, y
