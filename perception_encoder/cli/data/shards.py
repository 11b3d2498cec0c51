"""`pe data shards`: pack images with captions or labels into WebDataset tars."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perception_encoder.cli import options, output
from perception_encoder.cli.options import argument, option
from perception_encoder.cli.progress import track


def shards(
    source: Annotated[Path, argument("PATH", "A directory, or a table: CSV, TSV, Parquet, JSONL.")],
    out: Annotated[Path, options.out_option("Directory of the shards, new or empty.", "DIR")],
    size: Annotated[str, option("Samples per shard, or a size such as 500MB.", "SIZE")] = "1000",
    side: Annotated[int | None, option("Downscale larger images to this short side, in pixels.", least=16)] = None,
) -> None:
    """Pack images and captions into shards.

    Writes WebDataset tars, DIR/00000.tar and so on. The captions of an image are in a .txt, .caption or .json file of
    the same name (`cup.jpg`, `cup.txt`), or its directory is its label (`cup/1.jpg`); a table has a column of paths and
    one of texts. Samples are shuffled, in the same order every time. Images that cannot be read or have no caption are
    listed and left out; the exit status is then 1.

    Examples:

        pe data shards photos/ -o shards/
        pe data shards captions.parquet -o shards/ --size 500MB --side 256
        pe train builtin --shards shards/
    """
    from perception_encoder.data.packing import ShardSize, pack

    summary = pack(source, out, ShardSize.parse(size), side, track)
    output.print_line(f"{summary.samples} pairs in {summary.shards} shards: {out}")
    raise typer.Exit(output.report_skipped(summary.failures, summary.samples + len(summary.failures)))
