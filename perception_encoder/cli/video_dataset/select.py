"""`pe video-dataset select`: varied and interesting videos, without near-duplicates."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from perception_encoder.cli import options, output
from perception_encoder.cli.options import option
from perception_encoder.cli.video_dataset.options import Features


def select(
    features: Features,
    scores: Annotated[Path, option("Table that `pe video-dataset score` wrote.", "FILE")],
    out: Annotated[Path, options.out_option("Table of the selection: .parquet, .csv or .jsonl.")],
    count: Annotated[int, option("Most videos to select.", least=1)] = 1000,
    seed: Annotated[int, option("Random seed.", least=0)] = 0,
) -> None:
    """Select varied videos.

    K-means on the videos' embeddings; then the best of each cluster by score, the second of each, and so on, without
    near-duplicates. Needs the extra `eval`.

    Examples:

        pe video-dataset select features --scores scores.parquet --count 500 -o selection.csv
    """
    from perception_encoder.video_dataset.features import read_features
    from perception_encoder.video_dataset.outcomes import check_outcome_path, write_outcomes
    from perception_encoder.video_dataset.selection import align_scores, select_videos

    check_outcome_path(out)
    table = read_features(features)
    chosen = select_videos(table, align_scores(table, scores), count, seed=seed)
    write_outcomes(out, [dict(vars(video)) for video in chosen])
    output.print_line(f"{len(chosen):,} of {len(table):,} videos selected: {out}")
