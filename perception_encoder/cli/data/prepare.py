"""`pe data prepare`: download and draw emoji and clip art; `pe data prepare scenes`: models of furniture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perception_encoder.cli import options, output
from perception_encoder.cli.data.scenes import prepare_models
from perception_encoder.cli.options import argument, option
from perception_encoder.cli.progress import track
from perception_encoder.pretraining.builtin.sources import SOURCES, find_source

app = typer.Typer()

NAMES = [source.name for source in SOURCES]
COLUMNS = ("source", "split", "images", "duplicates", "failed", "licence")


@app.command()
def prepare(
    words: Annotated[
        list[Path] | None, argument("[scenes] [OUT]", "Directory of the shards [default: datasets].")
    ] = None,
    sources: Annotated[str, option("Sources, separated by commas.", "NAMES")] = ",".join(NAMES),
    side: Annotated[
        int, typer.Option(min=16, max=1024, metavar="N", help="Side of the square images, in pixels.")
    ] = 144,
    jobs: options.Jobs = None,
) -> None:
    """Download and draw emoji and clip art.

    Needs `npm` for the emoji (all sources except openclipart), `apt-get` for openclipart, and the extra `data`. Writes
    WebDataset shards OUT/train/SOURCE.tar of KEY.png and KEY.json (source, label, tags, licence, attribution); openmoji
    goes to OUT/unseen, since it is never trained on. Existing shards are skipped; delete one to make it again. Status
    1: some images could not be drawn; they are listed.

    `pe data prepare scenes OUT` makes OUT/scenes/furniture.tar from Debian's sweethome3d-furniture: textured models,
    with authors and licences, for `pe data scenes`. Needs `apt-get` and the extra `scenes`.

    Examples:

        pe data prepare ~/datasets --sources noto,twemoji
        pe data prepare scenes ~/datasets
    """
    from perception_encoder.pretraining.builtin.prepare import prepare_source

    first, *rest = words or [Path("datasets")]
    if rest or str(first) == "scenes":
        raise typer.Exit(prepare_models(first, rest, jobs))
    chosen = [find_source(name) for name in options.items_of(sources)]
    prepared = [prepare_source(source, first, side, jobs, track) for source in chosen]
    rows = []
    for source, shard in zip(chosen, prepared, strict=True):
        counts = (shard.written, shard.duplicates, len(shard.failures))
        cells = ("done", output.NONE, output.NONE) if shard.finished_before else counts
        rows.append((source.name, source.split, *cells, source.licence))
    output.print_table(COLUMNS, rows)
    failures = [failure for shard in prepared for failure in shard.failures]
    total = sum(shard.written + shard.duplicates for shard in prepared) + len(failures)
    raise typer.Exit(output.report_skipped(failures, total))
