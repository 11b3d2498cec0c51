"""`pe layers`: which layer of a model to take for which task."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from perception_encoder.cli import output
from perception_encoder.cli.dense_options import FinalNorm, PerMetre, Size, image_size
from perception_encoder.cli.progress import track
from perception_encoder.errors import ConfigError

app = typer.Typer()


@app.command()
def layers(
    model: Annotated[str, typer.Argument(help="A model's name or checkpoint; timm:NAME, hf:NAME; random:… before it.")],
    data: Annotated[list[str], typer.Option(help="TASK=PLACE, or a place for all tasks; again for more.")],
    tasks: Annotated[str, typer.Option(help="Names with commas between.")] = "classification,retrieval",
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the report.")] = Path("layers"),
    beside: Annotated[
        list[str] | None, typer.Option(help="Further models for the same plots [default: random weights].")
    ] = None,
    layer: Annotated[str, typer.Option(help="Layers, from 0 or, from the end, -1, and the last; all by default.")] = "",
    items: Annotated[int, typer.Option(min=2, help="Pictures measured for a task, at most.")] = 1000,
    size: Size = None,
    short_side: Annotated[int, typer.Option(min=16, help="Of tracking's frames, in pixels.")] = 240,
    per_metre: PerMetre = 1000.0,
    final_norm: FinalNorm = False,
    store: Annotated[Path | None, typer.Option(help="Folder of the features [default: OUT/features].")] = None,
    dtype: Annotated[str, typer.Option(help="Of kept features: float16 or float32.")] = "float16",
) -> None:
    """Ask every layer of a model which task it serves, and say which one to take.

    One pass extracts all layers' features into a store; every task is measured on them, layer by layer. A run that was
    stopped goes on where it was, and further tasks take what is there. Written: OUT/report.html with curves, best
    against last, recommendations for `pe embed --layer`, and why; curves.png, layers.csv, layers.json.

    Tasks and their data: classification, retrieval (labelled pictures: shards, a folder for each class, tables),
    segmentation (scenes, ADE20K), foreground (scenes), depth (NYU, KEY.jpg with KEY.depth.png), relative-depth (same),
    tracking (DAVIS, NAME.tar of NNNNN.jpg with NNNNN.png), detection (COCO, LVIS, scenes), objects (COCO, scenes),
    captions (is alike what is described alike?). Needs the extra `eval`. Status 1: some pictures failed.

    Examples:

        pe layers builtin --data photos
        pe layers PE-Core-B16-224 --tasks classification,tracking --data classification=imagenet --data tracking=DAVIS
        pe layers timm:vit_small_patch14_dinov2 --size 224 --beside builtin --data photos
    """
    from perception_encoder.layer_analysis.analysis import analyse
    from perception_encoder.layer_analysis.report import write_report
    from perception_encoder.layer_analysis.store import StoreConfig
    from perception_encoder.layer_analysis.tasks import TaskOptions, make_tasks
    from perception_encoder.models.external.layer_encoders import RANDOM, load_layer_encoder
    from perception_encoder.models.memory import keep_freed_memory
    from perception_encoder.pretraining.builtin.held_out import find_unseen_labels

    keep_freed_memory()
    config = StoreConfig(directory=store or out / "features", dtype=dtype)
    names, (paths, shared) = [name.strip() for name in tasks.split(",")], read_paths(data)
    options = TaskOptions(
        items=items,
        image_size=image_size(size),
        short_side=short_side,
        per_metre=per_metre,
        held_out=find_unseen_labels,
    )
    chosen, wanted = make_tasks(names, paths, shared, options), read_layers(layer) if layer else None
    others = beside or ([] if model.startswith(RANDOM) else [RANDOM + model])
    models, load = [model, *others], partial(load_layer_encoder, final_norm=final_norm)
    report = analyse(models, chosen, config, wanted, load, track, output.print_note)
    written = write_report(report, out)
    rows = [(found.curve.task, found.curve.metric, found.text()) for found in report.recommendations]
    output.print_table(("task", "figure", "recommendation"), rows, title=report.sweeps[0].model)
    for said in report.notes:
        output.print_warning(said)
    output.print_line(f"written: {', '.join(str(path) for path in written)}")
    raise typer.Exit(output.report_skipped(report.sweeps[0].failures, report.sweeps[0].images))


def read_layers(text: str) -> list[int]:
    """Numbers with commas between; ConfigError for anything else."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"layers are numbers with commas between, 0,5,-1 say, not {text!r}") from None


def read_paths(data: list[str]) -> tuple[dict[str, Path], Path | None]:
    """Read paths by task and the one for all tasks from "TASK=PATH" and "PATH"; ConfigError for two of the latter."""
    named = [part.partition("=")[::2] for part in data]
    shared = [Path(path) for path, rest in named if not rest]
    if len(shared) > 1:
        raise ConfigError("one path can be for all tasks; name the tasks of the others: TASK=PATH")
    return {task.strip(): Path(path) for task, path in named if path}, shared[0] if shared else None
