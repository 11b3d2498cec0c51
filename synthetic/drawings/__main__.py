"""`python -m synthetic.drawings`: download and draw emoji and clip art."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perception_encoder.cli import options, output
from perception_encoder.cli.output import track
from synthetic.command_line import run_command
from synthetic.drawings.sources import SOURCES, find_source

NAMES = [source.name for source in SOURCES]
WHICH = f"Sources, separated by commas [default: all]: {', '.join(NAMES)}."
COLUMNS = ("source", "split", "images", "duplicates", "failed", "licence")


def prepare(
    out: Annotated[Path, options.out_option("Directory of the shards.", "OUT"), options.BY_POSITION] = Path("datasets"),
    sources: Annotated[str, typer.Option(metavar="NAMES", show_default=False, help=WHICH)] = ",".join(NAMES),
    side: Annotated[
        int, typer.Option(min=16, max=1024, metavar="N", help="Side of the square images, in pixels.")
    ] = 144,
    jobs: options.Jobs = None,
) -> None:
    """Download and draw emoji and clip art.

    Needs `npm` for the emoji (all sources except openclipart), `apt-get` for openclipart, and the dependency group
    `synthetic`. Writes WebDataset shards OUT/train/SOURCE.tar of KEY.png and KEY.json (source, label, tags, licence,
    attribution); openmoji goes to OUT/unseen, since it is never trained on. Existing shards are skipped; delete one to
    make it again. Status 1: some images could not be drawn; they are listed.

    Examples:

        python -m synthetic.drawings -o ~/datasets --sources noto,twemoji
    """
    from synthetic.drawings.prepare import prepare_source

    drawings = [find_source(name) for name in options.items_of(sources)]
    shards = [prepare_source(source, out, side, jobs, track) for source in drawings]
    rows = []
    for source, shard in zip(drawings, shards, strict=True):
        counts = (shard.written, shard.duplicates, len(shard.failures))
        cells = ("done", output.NONE, output.NONE) if shard.finished_before else counts
        rows.append((source.name, source.split, *cells, source.licence))
    output.print_table(COLUMNS, rows)
    failures = [failure for shard in shards for failure in shard.failures]
    total = sum(shard.written + shard.duplicates for shard in shards) + len(failures)
    raise typer.Exit(output.report_skipped(failures, total))


if __name__ == "__main__":
    run_command("synthetic.drawings", prepare)
