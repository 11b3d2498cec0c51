"""`pe search`: find pictures and videos by what they show."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perception_encoder.cli import output
from perception_encoder.cli.progress import progress

if TYPE_CHECKING:
    from perception_encoder.inference.media import Media
    from perception_encoder.search.hits import Hit

app = typer.Typer()

WORDS = "What to look for, and where: folders, globs, files, tables, tars, URLs."


@app.command()
def search(
    words: Annotated[list[str], typer.Argument(metavar="[QUERY] FILES...", help=WORDS)],
    text: Annotated[list[str] | None, typer.Option(help="A text to look for; may be repeated.")] = None,
    image: Annotated[list[str] | None, typer.Option(help="A picture or clip to look for the like of.")] = None,
    top: Annotated[int, typer.Option(min=1, help="How many hits to show of each query.")] = 10,
    model: Annotated[str, typer.Option(help="Name, alias or checkpoint of a model.")] = "builtin",
    json: Annotated[bool, typer.Option("--json", help="Print the hits as JSON.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write a contact sheet of the hits.")] = None,
) -> None:
    """Find pictures and videos by a text, or by a picture of the like.

    The first word is the query, unless --text or --image says what to look for. Hits come best first, with the cosine
    similarity as their score, and of a video with the time that fits best; the query's own file is left out. All
    files are encoded anew each time. Status 1: some files could not be used, and are listed.

    Examples:

        pe search "a red mug" photos
        pe search --image mug.jpg photos --top 20 --html mugs.html
        pe search --text "a cat" --text "a dog" photos 'clips/*.mp4' --model PE-Core-L14-336
        pe search "a red mug" photos --json | jq -r '.queries[0].hits[].path'
    """
    from perception_encoder.inference.collection import encode_media, list_media
    from perception_encoder.inference.encoder import load
    from perception_encoder.search.hits import find_hits
    from perception_encoder.search.pages import write_contact_sheet
    from perception_encoder.search.query import picture_query, text_query
    from perception_encoder.search.sheets import name_query, query_sections

    texts = text or []
    if not texts and not image:
        texts, words = words[:1], words[1:]
    if not words:
        raise typer.BadParameter('name a folder too, as in: pe search "a red mug" photos')
    queries = [*map(text_query, texts), *map(picture_query, image or [])]
    items = list_media(words)
    encoder = load(model)
    with progress("looking at files", len(items)) as advance:
        collection = encode_media(encoder, items, advance)
    results = find_hits(encoder, queries, collection, top)
    if json:
        answers = list(map(as_json, queries, results))
        output.print_json({"model": encoder.name, "queries": answers, "skipped": collection.skipped})
    else:
        for query, hits in zip(queries, results, strict=True):
            output.print_line(name_query(query))
            output.print_table(("rank", "score", "file", "time"), map(as_row, count(1), hits))
    if html is not None:
        note = f"{len(collection.items)} pictures and videos, by {encoder.name}"
        write_contact_sheet(html, "Found", note, query_sections(queries, results, html))
    raise typer.Exit(output.report_skipped(collection.failures, collection.total))


def as_json(query: Media, hits: list[Hit]) -> dict[str, Any]:
    """A query with its hits: `text` or `image` says what was looked for, or `video`."""
    found = [{"path": hit.item.id, "score": hit.score, "time": hit.time} for hit in hits]
    return {query.kind: query.name, "hits": found}


def as_row(rank: int, hit: Hit) -> tuple[object, ...]:
    """One hit's line."""
    from perception_encoder.search.pages import clock

    return (rank, f"{hit.score:.3f}", hit.item.id, "" if hit.time is None else clock(hit.time))
