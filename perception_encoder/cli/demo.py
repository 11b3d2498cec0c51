"""`pe demo`: see it work on a few real pictures and a clip."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from perception_encoder.cli import output
from perception_encoder.cli.progress import progress

app = typer.Typer()

LITTLE = (
    "The built-in model knows flowers, clothes, groceries, Caltech's objects and emoji, and little else.",
    "On 1,000 photographs of ImageNet's classes it is right for 0.7 % among 1,000 names, and for 2 % among 100.",
)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the pictures, the clip and the page.")] = Path("demo"),
    model: Annotated[str, typer.Option(help="Name, alias or checkpoint of a model with a text tower.")] = "builtin",
) -> None:
    """Name and find a few real pictures and a clip.

    The pictures are photographs that scikit-image brings (extra `demo`), the clip moves over one of them. They are
    named out of a list of labels, five texts and a picture are looked for, and a contact sheet shows it all.

    Examples:

        pe demo
        pe demo --model PE-Core-L14-336 --out demo-large
    """
    from perception_encoder.evaluation.classification.labels import Namer
    from perception_encoder.inference import samples
    from perception_encoder.inference.collection import encode_media, list_media_items
    from perception_encoder.inference.encoder import load
    from perception_encoder.models.registry import BUILTIN, canonical_name
    from perception_encoder.search.query import galleries, search, terms
    from perception_encoder.search.web.pages import write_contact_sheet
    from perception_encoder.search.web.sheets import Naming, name_query, query_sections

    encoder = load(model)
    namer = Namer(encoder, samples.LABELS)
    brought = samples.write_samples(out)
    items = list_media_items([brought.gallery])
    with progress("looking at pictures", len(items)) as advance:
        found = encode_media(encoder, items, advance)
    title = f"{len(found.items)} pictures and clips as vectors of {encoder.dimension} numbers, by {encoder.name}"
    output.print_line(title)
    output.print_line("")
    guesses = namer.guess(found.vectors, top=3)
    best = f"best of {len(namer.labels)} labels"
    rows = [
        (Path(item.path).stem, *(f"{label} {share:.0%}" for label, share in ranked))
        for item, ranked in zip(found.items, guesses, strict=True)
    ]
    output.print_table(("picture or clip", best, "second", "third"), rows)

    queries = [*map(terms.text_query, samples.QUERIES), terms.media_query(str(brought.query))]
    gallery, vectors = galleries.FileGallery(encoder, found), search.query_vectors(encoder, queries)
    results = search.search([gallery], queries, vectors, top=4)
    output.print_line("")
    rows = [
        (name_query(query), *(f"{Path(hit.item.path).stem} {hit.score:.2f}" for hit in hits[:3]))
        for query, hits in zip(queries, results, strict=True)
    ]
    output.print_table(("looked for", "best", "second", "third"), rows)

    page = out / "index.html"
    named = Naming(encoder, found, guesses, namer.class_vectors).section("Named", "The most probable labels.", page)
    write_contact_sheet(page, "Named and found", title, [named, *query_sections(queries, results, page)])
    output.print_line("")
    output.print_line(f"All of it, with pictures: {page}")
    if canonical_name(model) == BUILTIN:
        for line in LITTLE:
            output.print_line(line)
    say_what_next(brought.gallery)
    raise typer.Exit(output.report_skipped(found.failures, found.total))


def say_what_next(pictures: Path) -> None:
    """Print commands that can be typed as they stand."""
    pe = "pe" if shutil.which("pe") else shlex.quote(min(sys.argv[0], os.path.relpath(sys.argv[0]), key=len))
    folder = shlex.quote(str(pictures))
    for line in (
        "The last line shows a real model. Type next:",
        f'  {pe} search "old coins" {folder}',
        f'  {pe} classify {folder} --labels "moon,motorbike,ginger cat"',
        f'  {pe} search "a red bicycle" YOUR_PICTURES --html found.html',
        f"  {pe} demo --model PE-Core-L14-336 --out demo-large    # fetches the published weights",
    ):
        output.print_line(line)
