"""`pe demo`: classify and search a few sample photographs and a video."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perception_encoder.cli import options, output
from perception_encoder.cli.output import track
from perception_encoder.models.registry import BUILTIN, canonical_name

LITTLE = (
    "The built-in model knows flowers, clothes, groceries, Caltech's objects and emoji, and little else.",
    "On 1,000 photographs of ImageNet's classes its accuracy is 0.7 % among 1,000 names and 2 % among 100.",
)


def demo(
    out: Annotated[Path, options.out_option("Directory for the images, the video and the page.", "DIR")] = Path("demo"),
    model: Annotated[str, options.model_option()] = "builtin",
) -> None:
    """Try it on ten photographs and a video.

    The photographs come with scikit-image (extra `demo`); the video pans over another one. They are classified by a
    list of labels, and searched by five texts and an image. A page shows the hits.

    Examples:

        pe demo
        pe demo -m PE-Core-S16-384 -o demo-small
    """
    from perception_encoder.evaluation.classification.labels import classify
    from perception_encoder.inference import samples
    from perception_encoder.inference.load import load
    from perception_encoder.search.index import search_files
    from perception_encoder.search.terms import media_query, text_query
    from perception_encoder.search.web.contact_sheet import name_query, query_sections, write_contact_sheet

    encoder = load(model)
    sample_files = samples.write_samples(out)
    classified = classify(sample_files.gallery, samples.LABELS, model=encoder, progress=track)
    title = f"{len(classified)} images and videos, embedded in {encoder.dimension} dimensions by {encoder.name}"
    output.print_line(title)
    output.print_line("")
    rows = [(Path(file.path).stem, *(f"{label} {share:.0%}" for label, share in file.labels)) for file in classified]
    output.print_table(("file", f"best of {len(classified.labels)} labels", "second", "third"), rows)

    queries = [*map(text_query, samples.QUERIES), media_query(str(sample_files.query))]
    found = search_files(queries, sample_files.gallery, encoder, top=4, progress=track)
    output.print_line("")
    rows = [
        (name_query(query), *(f"{Path(hit.path).stem} {hit.score:.2f}" for hit in hits[:3]))
        for query, hits in zip(found.queries, found.by_query, strict=True)
    ]
    output.print_table(("query", "best hit", "second", "third"), rows)

    page = out / "index.html"
    write_contact_sheet(page, "Demo", title, query_sections(found, page))
    output.print_line("")
    output.print_line(f"The hits as images: {page}")
    if canonical_name(model) == BUILTIN:
        for line in LITTLE:
            output.print_line(line)
    output.print_demo(model)
    raise typer.Exit(output.report_skipped(classified.skipped, len(classified) + len(classified.skipped)))
