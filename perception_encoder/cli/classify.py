"""`pe classify`: classify images and videos by labels of your own."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perception_encoder.cli import default_model, options, output
from perception_encoder.cli.options import OUTPUT, option
from perception_encoder.cli.progress import progress

if TYPE_CHECKING:
    from perception_encoder.evaluation.classification.labels import Guess
    from perception_encoder.inference.listing import Item


def classify(
    files: options.Files,
    labels: Annotated[str, option("Labels separated by commas, or @FILE with one per line.", "LABELS")],
    prompts: options.Prompts = "photo",
    model: options.Model = None,
    top: Annotated[int, option("Number of labels printed per file.", panel=OUTPUT, least=1)] = 3,
    json: options.Json = False,
    html: options.Html = None,
    strict: options.Strict = False,
) -> None:
    """Classify images and videos by your labels.

    Zero-shot: nothing is trained. Each label is put into a set of prompts, and each file gets the labels nearest to it,
    with probabilities over all labels. Write labels as you would say them ("ginger cat"), and add one for everything
    else ("other pet"). Files that cannot be read are listed. In a pipe, the table is tab-separated.

    Examples:

        pe classify photos --labels "cat,dog,other pet"
        pe classify 'clips/*.mp4' --labels "playing football,playing the guitar" --prompts kinetics
        pe classify photos --labels @labels.txt --html sorted.html -m PE-Core-L14-336
        pe classify photos --labels "cat,dog" | cut -f1,2
    """
    from perception_encoder.evaluation.classification.labels import Namer, read_labels
    from perception_encoder.inference.collection import encode_media, list_media_items
    from perception_encoder.inference.listing import check_paths
    from perception_encoder.inference.load import load
    from perception_encoder.search.web.contact_sheet import Naming, write_contact_sheet

    check_paths(files)
    left_out: Counter[str] = Counter()
    names, items = read_labels(labels), list_media_items(files, left_out)
    source = model or default_model.default_model()
    encoder = load(source)
    namer = Namer(encoder, names, prompts)
    with progress("encoding files", len(items)) as advance:
        media = encode_media(encoder, items, advance)
    guesses = namer.guess(media.vectors, top)
    if json:
        entries = list(map(_as_json, media.items, guesses))
        head = {"model": encoder.name, "prompts": prompts, "labels": names}
        output.print_json({**head, "files": entries, "skipped": media.skipped, "left_out": dict(left_out)})
    elif media.items:
        columns = ("file", "label", "probability", "other labels")[: 3 if top == 1 else 4]
        output.print_table(columns, (_as_row(*row)[: len(columns)] for row in zip(media.items, guesses, strict=True)))
    if html is not None:
        demo = default_model.demo_line(source)
        note = f"{len(media.items)} files, {len(names)} labels, by {encoder.name}" + (f"; {demo}" if demo else "")
        sections = Naming(encoder, media, guesses, namer.class_vectors).sections(html)
        write_contact_sheet(html, "Classified", note, sections)
    output.report_left_out(left_out)
    default_model.print_demo(source)
    raise typer.Exit(output.input_status(media.failures, media.total, strict))


def _as_json(item: Item, guesses: list[Guess]) -> dict[str, Any]:
    return {"id": item.id, "path": item.path, "labels": [guess._asdict() for guess in guesses]}


def _as_row(item: Item, guesses: list[Guess]) -> tuple[str, ...]:
    (label, share), *others = guesses
    return (item.id, label, f"{share:.0%}", ", ".join(f"{other} {each:.0%}" for other, each in others))
