"""`pe video-dataset score`: how interesting each video is, learned from hand scores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from perception_encoder.cli import options, output
from perception_encoder.cli.options import option
from perception_encoder.cli.video_dataset.options import Features

MOST = 10


def score(
    features: Features,
    hand: Annotated[Path, option("Hand scores: a table of `key` (SPLIT/KEY) and `score` (0 to 5).", "FILE")],
    out: Annotated[Path, options.out_option("Table of scores: .parquet, .csv or .jsonl.")],
    seed: Annotated[int, option("Random seed.", least=0)] = 0,
    as_json: options.Json = False,
) -> None:
    """Score videos by a random forest.

    Fitted on hand scores, from 0 (one frame says it all) to 5 (several events); the paper used about 1,000. Prints the
    error out of bag, beside that of the mean hand score, and the most important features. Needs the extra `eval`.

    Examples:

        pe video-dataset score features --hand scores.csv -o scores.parquet
    """
    from perception_encoder.video_dataset.features import read_features
    from perception_encoder.video_dataset.interest import read_hand_scores, report_as_json, score_videos
    from perception_encoder.video_dataset.outcomes import check_outcome_path, write_outcomes

    check_outcome_path(out)
    scores = score_videos(read_features(features), read_hand_scores(hand), seed)
    rows = [{"key": key, "score": value} for key, value in zip(scores.keys, scores.values.tolist(), strict=True)]
    write_outcomes(out, rows)
    report = scores.report
    if as_json:
        output.print_json(report_as_json(report))
        return
    errors = f"mean error {report.mean_error:.2f} (of the mean score {report.baseline_error:.2f})"
    output.print_line(
        f"{len(rows):,} videos scored; out of bag on {report.videos:,} hand scores: {errors}, "
        f"R² {report.explained:.2f}, rank correlation {report.rank_correlation:.2f}"
    )
    importances = [(name, f"{value:.3f}") for name, value in list(report.importances.items())[:MOST]]
    output.print_table(("feature", "importance"), importances)
