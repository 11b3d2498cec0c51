"""`pe classify`: name pictures and videos, out of labels that you choose."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perception_encoder.cli import default_model, output
from perception_encoder.cli.progress import progress

if TYPE_CHECKING:
    from perception_encoder.evaluation.classification.labels import Guess
    from perception_encoder.inference.listing import Item

app = typer.Typer()


@app.command()
def classify(
    files: Annotated[list[str], typer.Argument(help="Pictures, videos, folders, globs, tables, tars, URLs.")],
    labels: Annotated[str, typer.Option(help="Labels with commas between, or @FILE with one a line.")],
    top: Annotated[int, typer.Option(min=1, help="How many labels to show of each file.")] = 3,
    model: Annotated[str | None, typer.Option(help=default_model.OPTION)] = None,
    prompts: Annotated[str, typer.Option(help="Templates: photo, imagenet (80), kinetics (28), name.")] = "photo",
    json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write a contact sheet, sorted by label.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help=output.STRICT)] = False,
) -> None:
    """Name pictures and videos, out of labels that you choose.

    Nothing is trained: each label is put into a set of sentences, and a file is given the labels whose sentences are
    nearest, with probabilities among all of them. Say the labels as you would speak of the things, and add one for
    what else there may be. Files that could not be used are listed.

    Examples:

        pe classify photos --labels "cat,dog,other pet"
        pe classify 'clips/*.mp4' --labels "playing football,playing the guitar" --prompts kinetics
        pe classify photos --labels @labels.txt --html sorted.html --model PE-Core-L14-336
        pe classify photos --labels "cat,dog" --json | jq -r '.files[] | [.labels[0].label, .path] | @tsv'
    """
    from perception_encoder.evaluation.classification.labels import Namer, read_labels
    from perception_encoder.inference.collection import encode_media, list_media_items
    from perception_encoder.inference.encoder import load
    from perception_encoder.inference.listing import check_paths
    from perception_encoder.search.web.pages import write_contact_sheet
    from perception_encoder.search.web.sheets import Naming

    check_paths(files)
    names, items = read_labels(labels), list_media_items(files)
    source = model or default_model.default_model()
    encoder = load(source)
    namer = Namer(encoder, names, prompts)
    with progress("looking at files", len(items)) as advance:
        found = encode_media(encoder, items, advance)
    guesses = namer.guess(found.vectors, top)
    if json:
        named = list(map(as_json, found.items, guesses))
        head = {"model": encoder.name, "prompts": prompts, "labels": names}
        output.print_json({**head, "files": named, "skipped": found.skipped})
    elif found.items:
        output.print_table(("file", "label", "probability", "others"), map(as_row, found.items, guesses))
    if html is not None:
        naming = Naming(encoder, found, guesses, namer.class_vectors)
        demo = default_model.demo_line(source, model)
        note = f"{len(found.items)} files, {len(names)} labels, by {encoder.name}" + (f"; {demo}" if demo else "")
        write_contact_sheet(html, "Named", note, naming.sections(html))
    default_model.say_demo(source, model, json)
    raise typer.Exit(output.input_status(found.failures, found.total, strict))


def as_json(item: Item, guesses: list[Guess]) -> dict[str, Any]:
    """One file's entry."""
    return {"id": item.id, "path": item.path, "labels": [guess._asdict() for guess in guesses]}


def as_row(item: Item, guesses: list[Guess]) -> tuple[str, ...]:
    """One file's line."""
    (label, share), *others = guesses
    return (item.id, label, f"{share:.0%}", ", ".join(f"{other} {each:.0%}" for other, each in others))
