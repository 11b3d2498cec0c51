"""`pe eval classification`: classify images or videos zero-shot."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from perception_encoder.cli import options as shared
from perception_encoder.cli.evaluate import options

NAMES = "Class names: imagenet, or a file of names [default: the directories' names]."
ONTO = "With --mapping: choose among imagenet's classes, or those of a class file."


def classification(
    model: options.TwoTowers,
    data: options.Classes,
    split: options.Split = "test",
    classes: Annotated[str, options.data_option(NAMES, "FILE")] = "",
    mapping: Annotated[Path | None, options.data_option("JSON of the labels to use and their names.", "FILE")] = None,
    onto: Annotated[str, options.data_option(ONTO, "FILE")] = "",
    media: options.Media = None,
    trim: Annotated[int, options.data_option("Pixels to cut off each side; ObjectNet's border: 2.", "N", 0)] = 0,
    prompts: options.Prompts = "imagenet",
    transform: options.Transforms = "squash,crop",
    frames: shared.Frames = 8,
    out: options.Out = None,
) -> None:
    """Classify zero-shot: top-1 and top-5.

    Also the mean class accuracy. Both transforms are evaluated; the paper reports the better one. The embedding of a
    video is the mean over its frames. Labels are names of directories, WordNet ids or numbers, in Kinetics' CSV or in
    any table; WebDataset tars have numbers (KEY.cls) and classnames.txt. See docs/evaluation.md for each dataset.
    Status 1: some items could not be decoded; they are listed and left out of every result.

    Examples:

        pe eval classification PE-Core-L14-336 --data imagenet --split val --classes imagenet -o in1k.json
        pe eval classification PE-Core-L14-336 --data wds_cifar10 --prompts templates.txt
        pe eval classification PE-Core-L14-336 --data k400_val.csv --media k400 --split val --prompts kinetics
        pe eval classification builtin --data photos --prompts photo
    """
    from perception_encoder.datasets.classified import load_tasks
    from perception_encoder.evaluation.classification.zero_shot import ZeroShotEvaluator
    from perception_encoder.evaluation.features import cache_features
    from perception_encoder.evaluation.transforms import load_transforms

    tasks = load_tasks(data, split, options.class_options(classes, mapping, onto, media, trim))
    encoders, about = load_transforms(model, transform)
    evaluators = [ZeroShotEvaluator(task, shared.items_of(prompts), frames) for task in tasks.values()]
    options.finish(evaluators, cache_features(encoders), split, about, out)
