"""`pe embed`, `pe classify` and `pe demo`: embeddings of media and texts, the labels closest to them, and samples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perception_encoder.cli import options, output
from perception_encoder.cli.options import MODEL, OUTPUT, option
from perception_encoder.cli.output import track
from perception_encoder.inference.model_spec import DEFAULT
from perception_encoder.models.defaults import default_model
from perception_encoder.models.registry import BUILTIN, canonical_name
from perception_encoder.progress import untracked

if TYPE_CHECKING:
    from perception_encoder.evaluation.classification.zero_shot import ClassifiedFile


def embed(
    paths: options.Files,
    out: options.Embeddings,
    overwrite: options.Overwrite = False,
    model: options.PooledSpec = DEFAULT,
    normalize: Annotated[bool, option("Scale embeddings to unit length.", panel=MODEL)] = True,
    frames: options.Frames = 8,
    exclude: options.Exclude = None,
    strict: options.Strict = False,
) -> None:
    """Embed images, videos and texts.

    Tables (CSV, TSV, Parquet, JSONL) need a column of paths or of texts; "clip.mp4@2s-5s" is a part of a video.
    Files named in a directory's .peignore are excluded. Unreadable inputs are skipped and listed. Rerun an
    interrupted command to resume it.

    Examples:

        pe embed photos/ -o photos.parquet
        pe embed "shots/**/*.jpg" clips/ -o embeddings.parquet -m PE-Core-L14-336
        pe embed captions.csv -o captions/
        pe embed photos/ -o photos.parquet --exclude raw/ --exclude '*_small.jpg'
        pe embed photos.tar -o tokens.parquet --layer -2 --pool tokens
    """
    arguments = options.without(locals(), "paths", "out", "exclude", "strict")
    from perception_encoder.inference import output as embeddings

    source, progress = str(model.name or default_model()), track if output.error_console.is_terminal else untracked
    with output.interruptible(lambda: "stopped; finished embeddings are saved: rerun the same command to resume"):
        report = embeddings.embed(paths, out, exclude=exclude or (), **arguments, progress=progress)
    speed = f"{report.encoded / report.seconds:.1f} items/s"
    rows = report.rows
    output.print_line(f"{rows} embeddings in {out}, {speed}" if rows else f"no embeddings; {out} was not written")
    output.report_left_out(report.left_out)
    output.print_demo(source)
    output.exit_with_skipped(report.skipped, rows, strict)


def classify(
    files: options.Files,
    labels: Annotated[str, option("Labels separated by commas, or @FILE with one per line.", "LABELS")],
    prompts: options.Prompts = "photo",
    model: options.Spec = DEFAULT,
    top: Annotated[int, option("Number of labels per file.", panel=OUTPUT, least=1)] = 3,
    json: options.Json = False,
    strict: options.Strict = False,
) -> None:
    """Classify images and videos by your labels.

    Zero-shot: nothing is trained. Each label is put into a set of prompts, and each file gets the most similar labels,
    with probabilities over all labels. Write labels as you would say them ("ginger cat"), and add one for everything
    else ("other pet"). Unreadable files are skipped and listed. In a pipe, the table is tab-separated.

    Examples:

        pe classify photos --labels "cat,dog,other pet"
        pe classify 'clips/*.mp4' --labels "playing football,playing the guitar" --prompts kinetics
        pe classify photos --labels @labels.txt -m PE-Core-L14-336
        pe classify photos --labels "cat,dog" | cut -f1,2
    """
    arguments = options.without(locals(), "files", "labels", "json", "strict")
    from perception_encoder.evaluation.classification import zero_shot as classification

    result = classification.classify(files, labels, **arguments, progress=track)
    if json:
        output.print_json(result.to_dict())
    elif result:
        columns = ("file", "label", "probability", "other labels")[: 3 if top == 1 else 4]
        output.print_table(columns, (_row(file)[: len(columns)] for file in result))
    output.report_left_out(result.left_out)
    output.print_demo(str(model.name or default_model()))
    output.exit_with_skipped(result.skipped, len(result), strict)


def _row(file: ClassifiedFile) -> tuple[str, ...]:
    (label, probability), *others = file.labels
    return (file.id, label, f"{probability:.0%}", ", ".join(f"{label} {share:.0%}" for label, share in others))


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
    from perception_encoder.evaluation.classification.zero_shot import classify
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
