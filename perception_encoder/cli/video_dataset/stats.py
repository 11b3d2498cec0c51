"""`pe video-dataset stats`: lengths, caption words and categories of a dataset."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

from perception_encoder.cli import options, output
from perception_encoder.cli.options import option
from perception_encoder.cli.video_dataset.options import Data
from perception_encoder.errors import DataError

if TYPE_CHECKING:
    from perception_encoder.video_dataset.statistics import Spread


SPLIT = "Split of the table of categories, or all [default: test, the benchmark, else all]."


def stats(
    data: Data, split: Annotated[str | None, option(SPLIT, "NAME")] = None, as_json: options.Json = False
) -> None:
    """Show statistics of a dataset.

    The paper's table 3: videos, lengths and words of captions, by split, as mean ± standard deviation. And its table
    16: the refined captions of each category in the benchmark, the split test. Every tar and every JSON is read and
    checked.

    Examples:

        pe video-dataset stats PE-Video
        pe video-dataset stats PE-Video --split train
        pe video-dataset stats clips --json
    """
    from perception_encoder.datasets.pe_video import read_videos_of
    from perception_encoder.video_dataset.statistics import ALL, BENCHMARK, describe_dataset

    statistics = describe_dataset(read_videos_of(data))
    if split is not None and split not in statistics.splits:
        raise DataError(f"{data} has no split {split!r}; it has {', '.join(filter(None, statistics.splits))}")
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
    split = split or (BENCHMARK if statistics.categories.get(BENCHMARK) else ALL)
    categories = [(row.category, row.videos, f"{row.words:.1f}") for row in statistics.categories[split]]
    if categories:
        output.print_table((f"category ({split})", "refined", "words"), categories)


def _spread(spread: Spread) -> str:
    return f"{spread.mean:.1f}±{spread.deviation:.1f}" if spread.count else output.NONE
