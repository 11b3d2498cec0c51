"""`pe data`: make training data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perception_encoder.cli import options, output
from perception_encoder.cli.groups import lazy_group
from perception_encoder.cli.options import argument, option
from perception_encoder.cli.output import track

COMMANDS = {"Commands": {"shards": "data:shards", "masks": "data:masks"}}
app = lazy_group(COMMANDS)


@app.callback()
def data() -> None:
    """Make training data.

    Writes WebDataset tars for `pe train`, and caches a mask teacher's output for a spatial alignment.

    Examples:

        pe data shards photos/ -o shards/
        pe data masks --data photos -o masks
    """


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
        pe train core_n16 --shards shards/
    """
    from perception_encoder.data.packing import ShardSize, pack

    summary = pack(source, out, ShardSize.parse(size), side, track)
    output.print_line(f"{summary.samples} pairs in {summary.shards} shards: {out}")
    raise typer.Exit(output.report_skipped(summary.failures, summary.samples + len(summary.failures)))


def masks(
    data: Annotated[list[Path], option("Images: a directory, or one of tars; repeat for more.", "PATH")],
    out: Annotated[Path, options.out_option("Directory of the cache.")],
    recipe: Annotated[str, option("Recipe of the spatial alignment.", "NAME")] = "spatial_builtin",
    set_: options.Overrides = None,
) -> None:
    """Cache a mask teacher's output.

    A slow teacher, such as SAM 2.1, then runs once for each image and augmentation, and not in every epoch. The run
    that uses the cache needs the same seed, image_size, augmentation and copies. An interrupted pass resumes if the
    command is repeated. Needs the extra `spatial`.

    Examples:

        pe data masks --data photos -o masks --set masks=facebook/sam2.1-hiera-large --set copies=2
        pe train spatial_builtin --data photos --set masks=masks --set copies=2
    """
    from perception_encoder.errors import ConfigError
    from perception_encoder.spatial_alignment.config import SpatialConfig
    from perception_encoder.spatial_alignment.run import cache_masks
    from perception_encoder.stages import configure

    _, config = configure(recipe, set_ or [])
    if not isinstance(config, SpatialConfig):
        raise ConfigError(f"{recipe} is not a recipe of spatial alignment; `pe train --list` shows them")
    cached = cache_masks(config, data, out, track)
    output.print_line(f"{cached:,} augmented images: {out}")
