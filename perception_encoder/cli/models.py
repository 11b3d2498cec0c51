"""`pe models`: every model by name, with its sizes and published scores."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from perception_encoder.cli import output
from perception_encoder.models.registry import MODELS, ModelEntry, find_model, list_models

app = typer.Typer()

COLUMNS = ("model", "px", "patch", "width", "layers", "dim", "text", "IN-1k", "K400", "COCO")


@app.command()
def models(
    names: Annotated[list[str] | None, typer.Argument(help="Names or aliases; all models without.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print everything known as JSON, aliases included.")] = False,
) -> None:
    """List the models: sizes and published scores.

    Sizes: side of the picture and of a patch in pixels, width and number of layers, dimension of the embedding,
    text length in tokens. Scores: zero-shot top-1 on ImageNet and Kinetics-400, text-to-image R@1 on COCO (very
    probably with dual softmax), in percent, as published. `builtin`, `facebook/NAME` and the names of timm and
    open_clip are taken wherever a name is; `--json` shows them.

    Examples:

        pe models
        pe models builtin PE-Core-L-14-336 --json
    """
    entries = [find_model(name) for name in names] if names else [MODELS[name] for name in list_models()]
    if json:
        output.print_json([describe(entry) for entry in entries])
    else:
        output.print_table(COLUMNS, map(row, entries))


def describe(entry: ModelEntry) -> dict[str, Any]:
    """All that the registry knows about a model."""
    return {**asdict(entry), "repository": entry.repository, "aliases": entry.aliases}


def row(entry: ModelEntry) -> tuple[object, ...]:
    """One line of the table; a dash where the model has no such part or score."""
    vision, text = entry.vision, entry.text
    sizes = (vision.image_size, vision.patch_size, vision.width, vision.depth)
    scores = (entry.published.get(key, "–") for key in ("imagenet", "kinetics400", "coco_t2i"))
    return (entry.name, *sizes, vision.output_dim or "–", text.context_length if text else "–", *scores)
