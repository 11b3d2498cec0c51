"""`pe embed`, `pe classify`, `pe words` and `pe demo`: embeddings of media, labels, the words in them, and samples."""

from __future__ import annotations

import shlex
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perception_encoder.cli import options, output
from perception_encoder.cli.options import MODEL, OUTPUT, flag, option
from perception_encoder.cli.output import track
from perception_encoder.errors import install_command
from perception_encoder.inference.model_spec import DEFAULT
from perception_encoder.models.defaults import default_model
from perception_encoder.models.registry import SMALL_CORE, demo_line

if TYPE_CHECKING:
    from perception_encoder.search.ranking import Hit


READ_WORDS = "Also read the words in images, into a column of lines; needs the extra `words`."


def embed(
    paths: options.Files,
    out: options.Embeddings,
    overwrite: options.Overwrite = False,
    model: options.PooledSpec = DEFAULT,
    normalize: Annotated[bool, option("Scale embeddings to unit length.", panel=MODEL)] = True,
    frames: options.Frames = 8,
    exclude: options.Exclude = None,
    ray: options.Ray = None,
    words: Annotated[bool, flag("--words", READ_WORDS)] = False,
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
        pe embed /mnt/shards/*.tar -o embeddings.parquet --ray auto
    """
    arguments = options.without(locals(), "paths", "out", "exclude", "strict")
    from perception_encoder.inference import output as embeddings

    source = str(model.name or default_model())
    arguments |= {"progress": track} if output.error_console.is_terminal else {}
    with output.interruptible(lambda: "stopped; finished embeddings are saved: rerun the same command to resume"):
        report = embeddings.embed(paths, out, exclude=exclude or (), **arguments)
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
        rows = []
        for file in result:
            (best, probability), *others = file.labels
            rows.append(
                (file.id, best, f"{probability:.0%}", ", ".join(f"{name} {share:.0%}" for name, share in others))
            )
        shown = 3 if top == 1 else 4
        output.print_table(("file", "label", "probability", "other labels")[:shown], [row[:shown] for row in rows])
    output.report_left_out(result.left_out)
    output.print_demo(str(model.name or default_model()))
    output.exit_with_skipped(result.skipped, len(result), strict)


LITTLE = (
    "These queries were chosen: the built-in model is a small demo, which knows flowers, clothes, groceries, Caltech's "
    "objects and emoji, and little else."
)


def words(
    images: options.Files,
    exclude: options.Exclude = None,
    json: options.Json = False,
    strict: options.Strict = False,
) -> None:
    """Print the words in images, line by line.

    Reads Latin letters, Chinese and Japanese. Of a video, name a moment: clip.mp4@12s. With --json, each line has its
    box: x and y of four corners, as shares of the image's width and height. Unreadable images are skipped and listed.
    In a pipe, the table is tab-separated. Nothing is downloaded.

    Examples:

        pe words receipt.jpg
        pe words photos/ --exclude raw/ --json > words.json
        pe words 'scans/*.png' | grep -i invoice
    """
    from perception_encoder.words.reader import read_all_words

    left_out: Counter[str] = Counter()
    found, skipped = read_all_words(images, left_out, exclude or (), track)
    if json:
        lines = [{"path": path, "lines": [line.to_dict() for line in lines]} for path, lines in found.items()]
        output.print_json({"images": lines, "skipped": [error.to_dict() for error in skipped]})
    else:
        rows = [(path, line.text, f"{line.confidence:.2f}") for path, lines in found.items() for line in lines]
        output.print_table(("path", "text", "confidence"), rows)
    output.report_left_out(left_out)
    output.exit_with_skipped(skipped, len(found), strict)


def demo(
    out: Annotated[Path, options.out_option("Directory for the images, the video and the page.", "DIR")] = Path("demo"),
    model: Annotated[str, options.model_option()] = "builtin",
) -> None:
    """Try it on eleven photographs and a video.

    The photographs come with scikit-image (extra `demo`); the video pans over four of them. They are indexed, and
    searched by four texts, an image, and words in quotes: those in an image (extra `words`), or else in a name. A page
    shows the hits.

    Examples:

        pe demo
        pe demo -m PE-Core-S16-384 -o demo-small
    """
    from perception_encoder.inference import samples
    from perception_encoder.inference.load import load
    from perception_encoder.search.index import open_index
    from perception_encoder.search_page.contact_sheet import write_hits

    quoted = samples.quoted_query()
    reads_words = quoted == samples.WORDS
    encoder = load(model)
    gallery, query_image = samples.write_samples(out)
    index = open_index(gallery, encoder, words=reads_words)
    report = index.update(rebuild=index.exists, progress=track)
    found = index.search([*samples.QUERIES, query_image, quoted], top=2, thumbnails=True)
    title = f"{report.rows} images and moments of a video, indexed by {encoder.name}"
    output.print_line(title)
    output.print_line("")
    rows = [(query.heading, *map(_name, hits)) for query, hits in zip(found.queries, found.by_query, strict=True)]
    output.print_table(("query", "best hit", "second hit"), rows)
    output.print_line("")
    for hit in found.by_query[-1][:1]:
        name = hit.path.rpartition("/")[2]
        output.print_line(f"In quotes, a query finds words alone: {quoted} found {name} by {hit.why}")
    if not reads_words:
        output.print_line(f"To find words in images as well, {install_command('words')}")

    page = out / "index.html"
    write_hits(page, "Demo", title, found)
    pe, directory = output.program(), shlex.quote(str(gallery))
    output.print_line("")
    output.print_line(f"The hits as images: {page}")
    if demo_line(model):
        output.print_line(LITTLE)
    output.print_line("")
    output.print_line("Go on: search, search in the browser, choose a model for your own photographs:")
    output.print_line(f'  {pe} search "{samples.QUERIES[1]}" {directory} --top 2')
    output.print_line(f"  {pe} serve {directory}")
    output.print_line(f"  {pe} models use {SMALL_CORE}")
    raise typer.Exit(output.report_skipped(report.skipped, len(samples.IMAGES) + 1))


def _name(hit: Hit) -> str:
    moment = f" {hit.moment}" if hit.moment else ""
    return f"{hit.path.rpartition('/')[2]}{moment} ({hit.score:.2f})"
