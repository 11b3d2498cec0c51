"""`pe video-dataset stats`: lengths, caption words and categories of a dataset."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from perception_encoder.cli import options, output
from perception_encoder.cli.video_dataset.options import Data

if TYPE_CHECKING:
    from perception_encoder.video_dataset.statistics import Spread


def stats(data: Data, as_json: options.Json = False) -> None:
    """Show statistics of a dataset.

    The paper's tables 3 and 16: videos, lengths and words of captions, by split, as mean ± standard deviation; and the
    refined captions of each category. Every tar and every JSON is read and checked.

    Examples:

        pe video-dataset stats PE-Video
        pe video-dataset stats clips --json
    """
    from perception_encoder.datasets.pe_video import read_videos_of
    from perception_encoder.video_dataset.statistics import describe_dataset

    statistics = describe_dataset(read_videos_of(data))
    if as_json:
        output.print_json(asdict(statistics))
        return
    columns = ("split", "videos", "refined", "simulated", "seconds", "hours", "model's words", "refined words")
    rows = [
        (
            split or output.NONE,
            table.videos,
            table.refined,
            table.simulated,
            _spread(table.seconds),
            f"{table.hours:.1f}",
            _spread(table.model_words),
            _spread(table.refined_words),
        )
        for split, table in statistics.splits.items()
    ]
    output.print_table(columns, rows)
    categories = [(row.category, row.videos, f"{row.words:.1f}") for row in statistics.categories]
    if categories:
        output.print_table(("category", "refined", "words"), categories)


def _spread(spread: Spread) -> str:
    return f"{spread.mean:.1f}±{spread.deviation:.1f}" if spread.count else output.NONE
