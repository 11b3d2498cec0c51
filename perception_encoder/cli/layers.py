"""`pe layers`: evaluate every layer of a model on several tasks."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from perception_encoder.cli import default_model, options, output
from perception_encoder.cli.options import DATASET, OUTPUT, option
from perception_encoder.cli.progress import track
from perception_encoder.errors import ConfigError


def layers(
    model: options.LayeredModel,
    data: Annotated[list[str], option("Dataset of a task, or of all tasks; repeat for more.", "[TASK=]PATH", DATASET)],
    tasks: Annotated[str, option("Tasks, separated by commas.", "NAMES", DATASET)] = "classification,retrieval",
    layer: Annotated[str, option("Layers, such as 0,5,-1; the last is added [default: all].", "N,N,...")] = "",
    baseline: Annotated[list[str] | None, option("Further models to plot [default: random weights].", "MODEL")] = None,
    items: Annotated[int, option("Largest number of images per task.", panel=DATASET, least=2)] = 1000,
    size: options.Size = None,
    short_side: Annotated[int, option("Short side of tracking's frames, in pixels.", least=16)] = 240,
    per_metre: options.PerMetre = 1000.0,
    final_norm: options.FinalNorm = False,
    out: Annotated[Path, options.out_option("Directory of the report.", "DIR")] = Path("layers"),
    store: Annotated[Path | None, option("Cache of the features [default: OUT/features].", "DIR", OUTPUT)] = None,
) -> None:
    """Evaluate all layers; recommend one per task.

    One pass extracts and caches the features of all layers; then each task is evaluated layer by layer. An interrupted
    run resumes, and further tasks use the cache. Writes OUT/report.html (curves, the best layer against the last,
    recommendations for `pe embed --layer`, and why), curves.png, layers.csv and layers.json.

    Tasks and their datasets: classification, retrieval (labelled images: shards, class directories, tables),
    segmentation (scenes, ADE20K), foreground (scenes), depth (NYU, KEY.jpg with KEY.depth.png), relative-depth (same),
    tracking (DAVIS, NAME.tar of NNNNN.jpg with NNNNN.png), detection (COCO, LVIS, scenes), objects (COCO, scenes),
    captions (do similar images have similar captions?); and, with the extra `lang`, the datasets of questions of
    `pe eval`, each by a small language model that is fitted on its split `train`: vqav2, okvqa, textvqa, docvqa,
    infovqa, chartqa, ai2d, pope, coco, refcoco, refcoco+, refcocog, scenes, scene captions, documents. Needs the extra
    `eval`. Status 1: some images failed.

    Examples:

        pe layers builtin --data photos
        pe layers PE-Core-B16-224 --tasks classification,tracking --data classification=imagenet --data tracking=DAVIS
        pe layers builtin --tasks "scenes,scene captions" --data scenes --items 500 --layer 2,5,8
        pe layers timm:vit_small_patch14_dinov2 --size 224 --baseline builtin --data photos
    """
    from perception_encoder.evaluation.feature_cache import FeatureCache
    from perception_encoder.inference.open_model import RANDOM
    from perception_encoder.language_alignment.probing.question_task import QUESTION_TASKS, read_question_task
    from perception_encoder.layer_analysis.analysis import analyse
    from perception_encoder.layer_analysis.report import write_report
    from perception_encoder.layer_analysis.tasks import TaskOptions, make_tasks
    from perception_encoder.models.memory import keep_freed_memory

    keep_freed_memory()
    cache = FeatureCache(directory=store or out / "features")
    numbers = options.read_layers(layer) if layer else None
    pixels, (paths, shared) = options.image_size(size), read_paths(data)
    task_options = TaskOptions(items=items, image_size=pixels, short_side=short_side, per_metre=per_metre)
    readers = {name: partial(read_question_task, name) for name in QUESTION_TASKS}
    layer_tasks = make_tasks(options.items_of(tasks), paths, shared, task_options, readers)
    others = baseline or ([] if model.startswith(RANDOM) else [RANDOM + model])
    report = analyse([model, *others], layer_tasks, cache, numbers, track, output.print_note, final_norm)
    report_files = write_report(report, out)
    rows = [(each.curve.task, each.curve.metric, each.text()) for each in report.recommendations]
    output.print_table(("task", "metric", "recommendation"), rows, title=report.sweeps[0].model)
    for note in report.notes:
        output.print_warning(note)
    output.print_line(f"written: {', '.join(str(path) for path in report_files)}")
    default_model.print_demo(model, *others)
    raise typer.Exit(output.report_skipped(report.sweeps[0].failures, report.sweeps[0].images))


def read_paths(data: list[str]) -> tuple[dict[str, Path], Path | None]:
    """Read paths by task and the one for all tasks from "TASK=PATH" and "PATH"; ConfigError for two of the latter."""
    pairs = [part.partition("=")[::2] for part in data]
    shared = [Path(path) for path, rest in pairs if not rest]
    if len(shared) > 1:
        raise ConfigError("only one dataset can be for all tasks; name the tasks of the others: TASK=PATH")
    return {task.strip(): Path(path) for task, path in pairs if path}, shared[0] if shared else None
