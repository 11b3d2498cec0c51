"""`pe video-dataset load`: the fields of every video as a table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from perception_encoder.cli import options, output
from perception_encoder.cli.options import option
from perception_encoder.cli.video_dataset.options import Data


def load(
    data: Data,
    out: Annotated[Path, options.out_option("Table of videos: .parquet, .csv or .jsonl.")],
    split: Annotated[str | None, option("One split, such as test [default: all].", "NAME")] = None,
) -> None:
    """Read a dataset's fields into a table.

    A row a video: its key (SPLIT/KEY), captions, who refined them, category, seconds, frame rate, and where its bytes
    are in which tar. Published tars are read as they are. Every tar and every JSON is checked.

    Examples:

        pe video-dataset load PE-Video -o videos.parquet
        pe video-dataset load PE-Video --split test -o test.csv
    """
    from perception_encoder.datasets.pe_video import read_videos_of
    from perception_encoder.video_dataset.outcomes import check_outcome_path, write_outcomes
    from perception_encoder.video_dataset.tars import describe_record

    check_outcome_path(out)
    rows = [describe_record(record) for record in read_videos_of(data, split)]
    write_outcomes(out, rows)
    output.print_line(f"{len(rows):,} videos: {out}")
