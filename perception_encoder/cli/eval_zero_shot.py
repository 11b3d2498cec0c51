"""`pe eval classification` and `pe eval retrieval`: what a model knows without training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perception_encoder.cli import eval_options as options

app = typer.Typer()

Prompts = Annotated[str, typer.Option(help="imagenet (80), kinetics (28), photo (25), name; several with commas.")]
Captions = Annotated[Path, typer.Option("--data", help="Captions: JSON (COCO, Karpathy, MSR-VTT) or a table.")]


@app.command()
def classification(
    model: options.Model,
    data: options.Data,
    split: options.Split = "test",
    prompts: Prompts = "imagenet",
    transform: options.Transforms = "squash,crop",
    classes: options.Classes = "",
    mapping: options.Mapped = None,
    onto: options.Onto = "",
    media: options.Media = None,
    trim: options.Trim = 0,
    frames: options.Frames = 8,
    out: options.Out = None,
) -> None:
    """Name pictures or videos zero-shot: mean class accuracy, top-1 and top-5.

    A video is the mean of its frames' embeddings. Both transforms are measured; the paper reports the better one.
    Labels may be folders' names, WordNet ids or numbers, in Kinetics' CSV or any table; see docs/evaluation.md for
    each set.
    Status 1: some items could not be decoded, and are listed; they are in no figure.

    Examples:

        pe eval classification PE-Core-L14-336 --data imagenet --split val --classes imagenet -o in1k.json
        pe eval classification PE-Core-L14-336 --data k400_val.csv --media k400 --split val --prompts kinetics
        pe eval classification builtin --data photos --prompts photo
    """
    from perception_encoder.datasets.classified import load_tasks
    from perception_encoder.evaluation.classification.zero_shot import ZeroShotEvaluator
    from perception_encoder.evaluation.features import cache_features
    from perception_encoder.evaluation.transforms import load_transforms

    tasks = load_tasks(data, split, options.class_options(classes, mapping, onto, media, trim))
    encoders, about = load_transforms(model, transform)
    names = [name.strip() for name in prompts.split(",")]
    evaluators = [ZeroShotEvaluator(task, names, frames) for task in tasks.values()]
    options.finish(evaluators, cache_features(encoders), split, about, out)


@app.command()
def retrieval(
    model: options.Model,
    data: Captions,
    media: options.Media = None,
    split: Annotated[str, typer.Option(help="Of annotations that hold several.")] = "test",
    transform: options.Transforms = "squash,crop",
    frames: options.Frames = 8,
    out: options.Out = None,
) -> None:
    """Find pictures or videos by their captions and the other way: R@1, R@5, R@10, without and with dual softmax.

    Captions are taken as they are. Dual softmax looks at all queries at once; its figures stand apart. The published
    COCO figures (`pe models`) are very probably those with dual softmax.

    Examples:

        pe eval retrieval PE-Core-L14-336 --data captions_val2017.json --media val2017 -o coco.json
        pe eval retrieval PE-Core-L14-336 --data dataset_coco.json --media coco
        pe eval retrieval PE-Core-L14-336 --data MSRVTT_JSFUSION_test.csv --media MSRVTT/videos
    """
    from perception_encoder.datasets.captioned import load_captions
    from perception_encoder.evaluation.features import cache_features
    from perception_encoder.evaluation.retrieval import RetrievalEvaluator
    from perception_encoder.evaluation.transforms import load_transforms

    captions = load_captions(data, media, split)
    encoders, about = load_transforms(model, transform)
    options.finish([RetrievalEvaluator(captions, frames)], cache_features(encoders), split, about, out)
