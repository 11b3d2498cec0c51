"""`pe video-dataset categorise`: the ten categories of the PE Video Dataset."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

from perception_encoder.cli import default_model, options, output
from perception_encoder.cli.video_dataset.options import Features


def categorise(
    features: Features,
    out: Annotated[Path, options.out_option("Table of categories: .parquet, .csv or .jsonl.")],
    model: Annotated[str | None, options.model_option("see `pe models`")] = None,
) -> None:
    """Sort videos into ten categories.

    By the texts nearest to a video's frames: Hand Actions, Object Interactions, Food Preparation, Work Activities,
    Outdoor Scenes, Animals, Water Scenes, Object Handling, Close-up Shots, Nature Scenes. Use the model that computed
    the features.

    Examples:

        pe video-dataset categorise features -o categories.csv
    """
    from perception_encoder.inference.encoder import load
    from perception_encoder.video_dataset.categories import categorise_videos
    from perception_encoder.video_dataset.features import read_features
    from perception_encoder.video_dataset.outcomes import check_outcome_path, write_outcomes

    check_outcome_path(out)
    table = read_features(features)
    categories = categorise_videos(table, load(model := model or default_model.default_model()))
    write_outcomes(out, [dict(vars(each)) for each in categories])
    counts = Counter(each.category for each in categories)
    default_model.print_demo(model)
    output.print_table(("category", "videos"), counts.most_common())
