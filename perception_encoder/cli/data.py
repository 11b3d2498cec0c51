"""`pe data`: make training shards of drawings, of pictures of your own, or of rendered scenes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perception_encoder.cli import output
from perception_encoder.cli.progress import track
from perception_encoder.cli.scenes import prepare_models, scenes
from perception_encoder.pretraining.builtin.sources import SOURCES, find_source

app = typer.Typer()
app.command()(scenes)

NAMES = [source.name for source in SOURCES]
COLUMNS = ("source", "split", "pictures", "duplicates", "not drawn", "licence")


@app.callback()
def data() -> None:
    """Make training data."""


@app.command()
def prepare(
    out: Annotated[Path, typer.Argument(metavar="[scenes] [OUT]", help="Folder of the shards.")] = Path("datasets"),
    then: Annotated[Path | None, typer.Argument(hidden=True)] = None,
    sources: Annotated[str, typer.Option(help="Names, with commas between.")] = ",".join(NAMES),
    side: Annotated[int, typer.Option(min=16, max=1024, help="Side of the square pictures, in pixels.")] = 144,
    jobs: Annotated[int | None, typer.Option(min=1, help="Drawing processes [default: one a core].")] = None,
) -> None:
    """Fetch emoji and clip art from the registries and draw them.

    Needs `npm` for the emoji (all but openclipart), `apt-get` for openclipart, and the extra `data`. Writes
    WebDataset shards OUT/train/SOURCE.tar of KEY.png and KEY.json (source, label, tags, licence, attribution);
    openmoji goes to OUT/unseen, for it is never trained on. A source whose shard is there is not done again;
    delete the shard to make it anew. Status 1: some pictures could not be drawn, and are listed.

    `pe data prepare scenes OUT` makes OUT/scenes/furniture.tar of Debian's sweethome3d-furniture: textured models,
    with their authors and licences, for `pe data scenes`. Needs `apt-get` and the extra `scenes`.

    Examples:

        pe data prepare ~/datasets --sources noto,twemoji
        pe data prepare scenes ~/datasets
    """
    from perception_encoder.pretraining.builtin.prepare import prepare_source

    if then is not None or str(out) == "scenes":
        raise typer.Exit(prepare_models(out, then, jobs))
    chosen = [find_source(name.strip()) for name in sources.split(",")]
    prepared = [prepare_source(source, out, side, jobs, track) for source in chosen]
    rows = []
    for source, made in zip(chosen, prepared, strict=True):
        counts = (made.written, made.duplicates, len(made.failures))
        shown = ("done", "–", "–") if made.finished_before else counts
        rows.append((source.name, source.split, *shown, source.licence))
    output.print_table(COLUMNS, rows)
    failures = [failure for made in prepared for failure in made.failures]
    tried = sum(made.written + made.duplicates for made in prepared) + len(failures)
    raise typer.Exit(output.report_skipped(failures, tried))


@app.command()
def shards(
    source: Annotated[Path, typer.Argument(help="A folder, or a table: CSV, TSV, Parquet, JSONL.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the shards; a new or an empty one.")],
    size: Annotated[str, typer.Option(help="Of a shard: samples, or megabytes as in 500MB.")] = "1000",
    side: Annotated[int | None, typer.Option(min=16, help="Longest short side; larger pictures are scaled.")] = None,
) -> None:
    """Pack pictures with captions into WebDataset shards, OUT/00000.tar and so on.

    A picture's captions are in a .txt, .caption or .json beside it (as in `cup.jpg`, `cup.txt`), or the folder that it
    is in is its label (`cup/1.jpg`); a table has columns of paths and of texts. Samples are shuffled, always in the
    same way. Pictures that cannot be read, or have no caption, are listed, left out, and make the exit status 1.

    Examples:

        pe data shards photos/ -o shards/
        pe data shards captions.parquet -o shards/ --size 500MB --side 256
        pe train builtin --shards shards/
    """
    from perception_encoder.data.packing import ShardSize, pack

    packed = pack(source, out, ShardSize.parse(size), side, track)
    output.print_line(f"{packed.samples} pairs in {packed.shards} shards: {out}")
    raise typer.Exit(output.report_skipped(packed.failures, packed.samples + len(packed.failures)))
